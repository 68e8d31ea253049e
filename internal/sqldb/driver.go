package sqldb

import (
	"reflect"
	"runtime/debug"
	"slices"

	"github.com/jmoiron/sqlx"
)

// The import paths of the drivers' packages.
const (
	libpq     = "github.com/lib/pq"
	pgxStdlib = "github.com/jackc/pgx/v5/stdlib"
)

// libpqWithPoisonedPools are versions that leave connections in the pool on which every
// further query outside a transaction fails with "already a query being processed".
var libpqWithPoisonedPools = []string{"v1.12.0", "v1.12.1", "v1.12.2", "v1.12.3"}

// DriverWarning returns why the host should link another version of its
// database driver, or "" if the version is fine.
func DriverWarning(pool *sqlx.DB) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	return driverWarning(packageOf(pool.Driver()), info.Deps)
}

func driverWarning(driver string, linked []*debug.Module) string {
	if driver != libpq {
		return ""
	}
	for _, m := range linked {
		if m.Path != libpq {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Path == libpq && slices.Contains(libpqWithPoisonedPools, m.Version) {
			return libpq + " " + m.Version + " can leave connections in the pool on which every query outside a transaction fails" +
				" (already a query being processed); run: go get " + libpq + "@v1.11.2"
		}
	}
	return ""
}

// driverOf returns the import path of a pool's driver, or "" for a sqlx.DB without
// a sql.DB, which cannot run anything.
func driverOf(pool *sqlx.DB) string {
	if pool.DB == nil {
		return ""
	}
	return packageOf(pool.Driver())
}

// packageOf returns the import path of the package that defines v's type.
func packageOf(v any) string {
	t := reflect.TypeOf(v)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return ""
	}
	return t.PkgPath()
}

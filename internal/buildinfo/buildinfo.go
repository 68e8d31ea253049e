// Package buildinfo returns the version of this module that a program links.
package buildinfo

import (
	"runtime/debug"
	"strings"
)

const module = "github.com/MorpheusAIs/gateway-automation"

// Version returns the module's version, such as "v0.1.0". For a program built from a
// checkout it returns "devel-" and the commit, or "devel" if the commit is unknown.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return version(info)
}

func version(info *debug.BuildInfo) string {
	v := info.Main.Version
	if info.Main.Path != module {
		for _, dep := range info.Deps {
			if dep.Path == module {
				v = dep.Version
			}
		}
	}
	if v != "" && v != "(devel)" && !strings.HasPrefix(v, "v0.0.0-") {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && info.Main.Path == module {
			return "devel-" + s.Value[:min(len(s.Value), 12)]
		}
	}
	return "devel"
}

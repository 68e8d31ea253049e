package flags

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// Bucket returns the user's bucket in the cohort of a seed, 0 to 9,999: the
// first four bytes, big-endian, of SHA-256 of seed + "." + user, modulo 10,000.
//
// In PostgreSQL, automation_bucket(seed, user_id) returns the same. Both sides
// have SHA-256, and it keeps the cohorts of different seeds independent, which
// shorter hashes such as FNV-1a do not.
func Bucket(seed, user string) int {
	if len(seed)+1+len(user) <= 64 { // usual inputs: a short array is faster to zero
		var stack [64]byte
		return bucketOf(append(append(append(stack[:0], seed...), '.'), user...))
	}
	var stack [320]byte // append allocates longer inputs on the heap
	return bucketOf(append(append(append(stack[:0], seed...), '.'), user...))
}

func bucketOf(input []byte) int {
	sum := sha256.Sum256(input)
	return int(binary.BigEndian.Uint32(sum[:4]) % flagsql.Buckets)
}

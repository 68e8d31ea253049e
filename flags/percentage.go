package flags

import "github.com/MorpheusAIs/gateway-automation/internal/flagsql"

// Percentage is a share of the users, in hundredths of a per cent: 1,250 is
// 12.5 %. It is valid from 0 to 100 * Percent. In JSON it is the number before
// the % sign, 12.5.
type Percentage int

// Percent is one per cent, as in 10 * flags.Percent.
const Percent Percentage = 100

// String returns the number before the % sign, "12.5".
func (p Percentage) String() string { return flagsql.FormatPercentage(int(p)) }

// MarshalJSON implements json.Marshaler.
func (p Percentage) MarshalJSON() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalJSON implements json.Unmarshaler. It accepts a number from 0 to 100
// with at most two decimals.
func (p *Percentage) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	v, err := flagsql.ParsePercentage(string(b)) // rejects a JSON string for its quotes
	if err == nil {
		*p = Percentage(v)
	}
	return err
}

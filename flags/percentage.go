package flags

import (
	"fmt"
	"math"
	"strconv"
)

// Percentage is a share of the users, in hundredths of a per cent: 1,250 is
// 12.5 %. Valid ones are 0 to 100 * Percent. In JSON it is a number of per
// cents, 12.5.
type Percentage int

// Percent is one per cent, as in 10 * flags.Percent.
const Percent Percentage = 100

// ParsePercentage reads a number of per cents from 0 to 100 with at most two
// decimals, such as "12.5".
func ParsePercentage(s string) (Percentage, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%.20q is no number", s)
	}
	p, err := fromFloat(f)
	if err != nil {
		return 0, err
	}
	if math.Abs(f*float64(Percent)-float64(p)) > 1e-6 {
		return 0, fmt.Errorf("%s has more than two decimals", s)
	}
	return p, nil
}

// fromFloat rounds to hundredths, as PostgreSQL's numeric(5,2) does.
func fromFloat(f float64) (Percentage, error) {
	if !(f >= 0 && f <= 100) { // NaN is neither
		return 0, fmt.Errorf("%v is not within 0 and 100", f)
	}
	return Percentage(math.Round(f * float64(Percent))), nil
}

// String is the number of per cents, "12.5".
func (p Percentage) String() string {
	return strconv.FormatFloat(float64(p)/float64(Percent), 'f', -1, 64)
}

// MarshalJSON implements json.Marshaler.
func (p Percentage) MarshalJSON() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalJSON implements json.Unmarshaler; it takes what ParsePercentage does.
func (p *Percentage) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	v, err := ParsePercentage(string(b)) // a text has quotes, and so is no number
	if err != nil {
		return err
	}
	*p = v
	return nil
}

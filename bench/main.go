package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

func main() {
	testing.Init()
	passes := flag.Int("passes", 50, "number of interleaved passes; the table has the fastest one of each case")
	flag.Parse()
	// Many short passes: on a busy machine at least some of them run undisturbed.
	if err := flag.Set("test.benchtime", "10ms"); err != nil {
		panic(err)
	}
	if err := run(os.Stdout, *passes); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// figure is the cost of one case of one peer.
type figure struct {
	ns     []float64 // per call, in each pass
	allocs int64     // per call
}

// best returns the fastest pass: other work of the machine only makes passes slower.
func (f *figure) best() float64 { return slices.Min(f.ns) }

// measure adds a pass.
func (f *figure) measure(fn func() bool) {
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			fn()
		}
	})
	f.ns = append(f.ns, float64(r.T.Nanoseconds())/float64(r.N))
	f.allocs = r.AllocsPerOp()
}

func run(out io.Writer, passes int) error {
	all := peers()
	timed := make([]map[string]func() bool, len(all))
	figures := make([]map[string]*figure, len(all))
	for i, p := range all {
		o, err := p.open()
		if err == nil {
			defer o.close()
			err = o.check()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		timed[i], figures[i] = o.cases(), map[string]*figure{}
		for _, name := range caseNames {
			figures[i][name] = &figure{}
		}
	}
	input, bare := []byte(rollout+"."+unlisted(1)), &figure{}
	for pass := range passes {
		fmt.Fprintf(os.Stderr, "\rpass %d of %d ", pass+1, passes)
		bare.measure(func() bool { sum := sha256.Sum256(input); return sum[0] == 0 })
		for i := range all {
			for _, name := range caseNames {
				figures[i][name].measure(timed[i][name])
			}
		}
	}
	_, err := io.WriteString(out, table(all, figures, bare))
	return err
}

func table(all []peer, figures []map[string]*figure, bare *figure) string {
	var s strings.Builder
	row := func(first string, cells func(name string) string) {
		s.WriteString("| " + first)
		for _, name := range caseNames {
			s.WriteString(" | " + cells(name))
		}
		s.WriteString(" |\n")
	}
	row("ns, × this module, allocations", func(name string) string { return name })
	s.WriteString("|---|" + strings.Repeat("---|", len(caseNames)) + "\n")
	row("the bare SHA-256", func(string) string { return fmt.Sprintf("%.0f", bare.best()) })
	for i, p := range all {
		row(p.name, func(name string) string {
			f := figures[i][name]
			return fmt.Sprintf("%.0f, %.1f ×, %d", f.best(), f.best()/figures[0][name].best(), f.allocs)
		})
	}
	ours := figures[0]
	fmt.Fprintf(&s, "\nThis module's rollout is %.2f × the bare SHA-256.\n", ours[caseNames[0]].best()/bare.best())
	return s.String()
}

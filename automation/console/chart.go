package console

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// rateOf is the share of failures, NaN without outcomes.
func rateOf(c rollout.Counts) float64 {
	if c.Outcomes == 0 {
		return math.NaN()
	}
	return c.ErrorRate()
}

// The chart's size in its own units; the page scales it.
const (
	chartWidth, chartHeight = 720.0, 200.0
	chartLeft, chartBottom  = 44.0, 22.0
	chartTop, chartRight    = 10.0, 8.0
)

// errorChart draws the error rates of both arms over time, with the limit. It
// returns an empty string without points.
func errorChart(points []rollout.Point, limit float64) template.HTML {
	if len(points) == 0 {
		return ""
	}
	first, last := points[0].At, points[len(points)-1].At
	if len(points) == 1 {
		first = first.Add(-time.Minute) // a point counts the time before it
	}
	span := last.Sub(first).Seconds()
	highest := limit * 2
	for _, p := range points {
		for _, rate := range []float64{rateOf(p.Exposed), rateOf(p.Control)} {
			if rate > highest {
				highest = rate
			}
		}
	}
	highest = niceCeiling(highest)
	x := func(t time.Time) float64 {
		return chartLeft + t.Sub(first).Seconds()/span*(chartWidth-chartLeft-chartRight)
	}
	y := func(rate float64) float64 {
		return chartTop + (1-rate/highest)*(chartHeight-chartTop-chartBottom)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %g %g" role="img" aria-label="Error rates from %s to %s; the table below has the numbers">`,
		chartWidth, chartHeight, stamp(first), stamp(last))
	for i := range 5 {
		rate := highest * float64(i) / 4
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`,
			chartLeft, chartWidth-chartRight, y(rate), y(rate), chartLeft-6, y(rate)+4, formatPercent(rate))
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g">%s</text><text x="%g" y="%g" text-anchor="end">%s UTC</text>`,
		chartLeft, chartHeight-6, first.UTC().Format("Jan 2, 15:04"), chartWidth-chartRight, chartHeight-6, last.UTC().Format("Jan 2, 15:04"))
	fmt.Fprintf(&b, `<line class="limit" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, chartLeft, chartWidth-chartRight, y(limit), y(limit))
	line := func(class string, arm func(rollout.Point) rollout.Counts) {
		var path strings.Builder
		connected := false // the previous point had a rate
		for _, p := range points {
			rate := rateOf(arm(p))
			if math.IsNaN(rate) {
				connected = false
				continue
			}
			move := byte('L')
			if !connected {
				move = 'M'
			}
			fmt.Fprintf(&path, "%c%.1f %.1fh0", move, x(p.At), y(rate)) // h0 draws a dot for a single point
			connected = true
		}
		fmt.Fprintf(&b, `<path class="%s" d="%s"/>`, class, path.String())
	}
	line("control", func(p rollout.Point) rollout.Counts { return p.Control })
	line("exposed", func(p rollout.Point) rollout.Counts { return p.Exposed })
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // it is made of numbers and times only
}

// niceCeiling rounds a share up to 1, 2, 4 or 8 times a power of ten, in per cent;
// to 100 % at most.
func niceCeiling(share float64) float64 {
	for scale := .001; scale < 1; scale *= 10 {
		for _, step := range []float64{1, 2, 4, 8} {
			if step*scale >= share {
				return min(step*scale, 1)
			}
		}
	}
	return 1
}

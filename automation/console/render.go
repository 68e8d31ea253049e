package console

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// renderer has each page's templates, parsed once.
type renderer struct{ pages map[string]*template.Template }

func newRenderer(now func() time.Time) *renderer {
	funcs := template.FuncMap{
		"ago":      func(t time.Time) string { return ago(now(), t) },
		"left":     func(t time.Time) string { return left(now(), t) },
		"stamp":    stamp,
		"duration": formatDuration,
		"rate":     func(c rollout.Counts) string { return formatPercent(rateOf(c)) },
		"words":    func(name any) string { return strings.ReplaceAll(fmt.Sprint(name), "_", " ") },
		"short":    func(id any) string { return shorten(fmt.Sprint(id)) },
		"count":    func(n any) string { return formatCount(reflect.ValueOf(n).Int()) },
		"reach":    reach,
		"plural":   plural,
		"seconds":  func(n int64) string { return formatDuration(time.Duration(n) * time.Second) },
		"excerpt":  func(s string) string { return text.Truncate(s, 300) },
	}
	layout := template.Must(template.New("layout.html").Funcs(funcs).ParseFS(templateFiles, "templates/layout.html"))
	names, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // the folder is embedded
	}
	r := &renderer{pages: make(map[string]*template.Template, len(names))}
	for _, name := range names {
		if name.Name() != "layout.html" {
			page := template.Must(template.Must(layout.Clone()).ParseFS(templateFiles, path.Join("templates", name.Name())))
			r.pages[name.Name()] = page
		}
	}
	return r
}

// view is the data of every template.
type view struct {
	Title    string
	Operator Operator
	MayAct   bool   // the operator may change something
	CSRF     string // for forms
	Flash    flash
	SignOut  bool // the operator signed in here and can sign out
	Flag     string
	Page     string // the page's path, to mark it in the navigation
	Data     any
}

func (c *console) view(r *request, title string, data any) view {
	return view{Title: title, Operator: r.operator, MayAct: r.operator.Name != "" && !r.operator.ReadOnly, CSRF: r.csrf,
		Flash: r.flash, SignOut: c.opts.Authorize == nil && r.operator.Name != "", Flag: c.opts.Flag, Page: strings.TrimPrefix(r.URL.Path, "/"), Data: data}
}

// render writes a whole page. It panics if a template fails, before it has
// written anything.
func (p *renderer) render(w http.ResponseWriter, status int, name string, v view) {
	var b bytes.Buffer
	if err := p.pages[name].ExecuteTemplate(&b, "layout.html", v); err != nil {
		panic(fmt.Errorf("console: %s: %w", name, err)) // a template does not match its data; tests render all of them
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if d := now.Sub(t); d >= 2*time.Second {
		return formatDuration(d) + " ago"
	}
	return "just now"
}

func left(now, t time.Time) string {
	if d := t.Sub(now); d > 0 {
		return formatDuration(d)
	}
	return "ended"
}

// formatDuration writes the two largest units that matter.
func formatDuration(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d >= 48*time.Hour:
		return units(d, 24*time.Hour, "d", time.Hour, "h")
	case d >= time.Hour:
		return units(d, time.Hour, "h", time.Minute, "min")
	case d >= time.Minute:
		return units(d, time.Minute, "min", time.Second, "s")
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// units writes a duration in a large unit and, if anything is left, in a small one.
func units(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	text := fmt.Sprintf("%d %s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return text
}

// formatPercent writes a share, with more digits the smaller it is.
func formatPercent(share float64) string {
	switch p := share * 100; {
	case math.IsNaN(p) || math.IsInf(p, 0):
		return "–"
	case p == 0 || p >= 10:
		return fmt.Sprintf("%.0f %%", p)
	case p >= 1:
		return fmt.Sprintf("%.1f %%", p)
	default:
		return fmt.Sprintf("%.2f %%", p)
	}
}

// formatCount groups the digits of a number.
func formatCount(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}

// plural writes a number and a noun whose plural ends with s.
func plural(n int, name string) string {
	if n != 1 {
		name += "s"
	}
	return formatCount(int64(n)) + " " + name
}

// reach describes for whom a flag is on, by its percentage and the number of
// internal users that it lists.
func reach(percentage flags.Percentage, listed int) string {
	switch {
	case percentage == 0 && listed == 0:
		return "nobody"
	case percentage == 0:
		return plural(listed, "internal user")
	case percentage == 100*flags.Percent || listed == 0:
		return fmt.Sprintf("%v %%", percentage)
	}
	return fmt.Sprintf("%v %% and %s", percentage, plural(listed, "internal user"))
}

// shorten abbreviates an id to its beginning and end.
func shorten(id string) string {
	if len(id) <= 16 {
		return id
	}
	return id[:8] + "…" + id[len(id)-6:]
}

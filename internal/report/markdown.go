package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
)

// Markdown returns the report as a document for the weekly review.
func (r Report) Markdown() string {
	d := &document{}
	d.line("# %s, %s", cell(r.Rollout), day(r.At))
	d.line("")
	d.line("Rollout: **%s**%s. Verdict: **%s**.", words(string(r.State)), map[bool]string{true: ", by hand"}[r.ByHand], words(string(r.Verdict)))
	if r.Detail != "" {
		d.line("")
		d.line("%s", cell(r.Detail))
	}
	d.table("Criteria", []string{"criterion", "verdict", "wanted", "measured"}, func(row func(...any)) {
		for _, c := range r.Criteria {
			row(words(c.Name), words(string(c.Verdict)), c.Wanted, c.Measured)
		}
	})
	d.table("Steps", []string{"when", "who", "who has it"}, func(row func(...any)) {
		for _, s := range r.Steps {
			row(minute(s.At), s.By, s)
		}
	})
	if b := r.TakenBack; b != nil {
		d.line("")
		d.line("## Rolled back")
		d.line("")
		d.line("By %s at %s, in the stage %s that began at %s. %s", cell(b.By), minute(b.At), cell(b.Stage), minute(b.Since), cell(b.Detail))
		d.activity("What led to it", b.Activity)
	}
	d.review(r.Review)
	return d.String()
}

// document builds Markdown.
type document struct{ strings.Builder }

// review writes the review of a period.
func (d *document) review(v Review) {
	d.line("")
	d.line("## %s to %s", minute(v.From), minute(v.To))
	d.table("Opens", []string{"for", "opened", "failed", "not needed any more", "under way or unknown"}, func(row func(...any)) {
		for _, o := range v.Opens {
			row(words(o.Purpose), o.Opened, o.Failed, o.Dropped, o.Unknown)
		}
	})
	d.activity("Errors by cause", v.Activity)
	d.table("Latency of what was served", []string{"kind", "requests", "on average", "in the database", "slow"}, func(row func(...any)) {
		for _, a := range v.Activity {
			if a.Cause == string(outcome.None) {
				row(a.Kind, a.Requests, mean(a.LatencyUS, a.Requests), mean(a.DatabaseUS, a.Requests), percent(a.Slow, a.Requests))
			}
		}
	})
	d.table("Adoption", []string{"users who", "users"}, func(row func(...any)) {
		row("used it", v.Users.Active)
		row("switched it on, or changed their settings and have it on", v.Users.OptedIn)
		row("switched it off, or changed their settings and have it off", v.Users.OptedOut)
	})
	d.table("Paid for nothing", []string{"sessions that were", "sessions", "requested time"}, func(row func(...any)) {
		for _, u := range v.Unused {
			row(u.What, u.Sessions, time.Duration(u.Seconds)*time.Second)
		}
	})
	d.line("")
	d.line("### Feedback")
	d.line("")
	rating := "no rating"
	if v.Feedback.Rated > 0 {
		rating = fmt.Sprintf("%.1f of 5 on average over %d", v.Feedback.Rating, v.Feedback.Rated)
	}
	d.line("%d entries, %d of them open, %s.", v.Feedback.Count, v.Feedback.Open, rating)
	if len(v.Feedback.Newest) > 0 {
		d.line("")
	}
	for _, e := range v.Feedback.Newest {
		d.line("- %s, stage %s: %s", day(e.CreatedAt.Time), cell(e.Stage), cell(e.Message))
	}
}

func (d *document) line(format string, args ...any) { _, _ = fmt.Fprintf(d, format+"\n", args...) }

// table writes a table, or "None." if fill adds no row.
func (d *document) table(title string, head []string, fill func(row func(...any))) {
	d.line("")
	d.line("### %s", title)
	d.line("")
	rows := 0
	fill(func(cells ...any) {
		if rows == 0 {
			d.line("| %s |", strings.Join(head, " | "))
			d.line("|%s", strings.Repeat("---|", len(head)))
		}
		rows++
		texts := make([]string, len(cells))
		for i, c := range cells {
			texts[i] = cell(fmt.Sprint(c))
		}
		d.line("| %s |", strings.Join(texts, " | "))
	})
	if rows == 0 {
		d.line("None.")
	}
}

// activity writes the failed requests, by cause.
func (d *document) activity(title string, list []replica.Activity) {
	all := requests(list)
	d.table(title, []string{"kind", "cause", "requests", "of all"}, func(row func(...any)) {
		for _, a := range failures(list) {
			row(a.Kind, words(a.Cause), a.Requests, percent(a.Requests, all))
		}
	})
}

// special are the characters that mean something in Markdown or HTML.
var special = strings.NewReplacer("\\", "\\\\", "|", "\\|", "<", "&lt;", ">", "&gt;", "&", "&amp;", "*", "\\*", "_", "\\_", "`", "\\`", "[", "\\[", "]", "\\]",
	"\r\n", " ", "\n", " ", "\r", " ")

// cell escapes a text that a user or an operator may have written.
func cell(s string) string { return special.Replace(s) }

func words(s string) string { return strings.ReplaceAll(s, "_", " ") }

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }

func percent(part, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f %%", 100*float64(part)/float64(whole))
}

func mean(us, n int64) time.Duration {
	if n == 0 {
		return 0
	}
	return (time.Duration(us/n) * time.Microsecond).Round(10 * time.Microsecond)
}

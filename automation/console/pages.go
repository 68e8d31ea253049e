package console

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

// optional turns the API's 404 into found == false without an error.
func optional(err error) (found bool, _ error) {
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (c *console) flagPath(rest string) string { return "/flags/" + url.PathEscape(c.opts.Flag) + rest }

// nextPage encodes a query, which a template then does not escape again.
func nextPage(q url.Values) template.URL {
	return template.URL(q.Encode()) //nolint:gosec // Encode leaves nothing that ends an attribute
}

// keep copies the named parameters of a request that are set.
func keep(q url.Values, r *request, names ...string) url.Values {
	for _, name := range names {
		if v := strings.TrimSpace(r.FormValue(name)); v != "" {
			q.Set(name, v)
		}
	}
	return q
}

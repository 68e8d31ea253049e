package console

import (
	"fmt"
	"net/http"
	"strings"
)

func (c *console) cleanup(w http.ResponseWriter, r *request) error {
	c.pages.render(w, http.StatusOK, "cleanup.html", c.view(r, "Clean-up", nil))
	return nil
}

func (c *console) runCleanup(r *request) (target, message string, err error) {
	dry := r.PostFormValue("dry_run") != ""
	var removed struct {
		Removed []struct {
			Kind string `json:"kind"`
			Rows int64  `json:"rows"`
		} `json:"removed"`
	}
	if err := c.admin.send(r, http.MethodPost, "/cleanup", nil, map[string]any{"dry_run": dry}, &removed); err != nil {
		return "cleanup", "", err
	}
	var parts []string
	for _, n := range removed.Removed {
		if n.Rows > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", formatCount(n.Rows), strings.ReplaceAll(n.Kind, "_", " ")))
		}
	}
	message = "Removed: "
	if dry {
		message = "A clean-up would remove: "
	}
	if len(parts) == 0 {
		return "cleanup", "There is nothing past its retention.", nil
	}
	return "cleanup", message + strings.Join(parts, ", ") + ".", nil
}

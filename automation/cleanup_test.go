package automation_test

import (
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// insertOldSettings inserts three users: "deleted" deleted their settings 8 days ago,
// "untouched" has had settings equal to the defaults since 2020, and "off" opted out
// in 2020.
const insertOldSettings = `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at) VALUES
	('deleted', TRUE, 3600, '2020-01-01 00:00:00.000', '2020-01-01 00:00:00.000', strftime('%Y-%m-%d %H:%M:%f', 'now', '-8 days')),
	('untouched', TRUE, 7200, '2020-01-01 00:00:00.000', '2020-01-01 00:00:00.000', NULL),
	('off', FALSE, 7200, '2020-01-01 00:00:00.000', '2020-01-01 00:00:00.000', NULL)`

func TestCleanup_FollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true, config: func(c *automation.Config) {
		c.RetentionDays, c.DefaultSessionDuration = 7, 2*time.Hour
	}})
	h.exec(insertOldSettings)
	for _, dryRun := range []bool{true, false} {
		r, err := h.CleanUp(t.Context(), dryRun)
		if err != nil || r.Total() != 2 || r.DryRun != dryRun {
			t.Errorf("dry run %v: report %+v, error %v; want two rows", dryRun, r, err)
		}
	}
	if n := h.count(`SELECT count(*) FROM user_automation_settings WHERE user_id = 'off'`); n != 1 {
		t.Error("the settings of a user who opted out were removed")
	}
}

func TestCleanup_RunsByItself(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) {
		c.CleanupInterval, c.RetentionDays = time.Second, 7
	}})
	h.exec(insertOldSettings)
	h.until("the clean-up has removed the deleted settings", func() bool {
		return h.count(`SELECT count(*) FROM user_automation_settings WHERE user_id = 'deleted'`) == 0
	})
}

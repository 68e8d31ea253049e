package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestVersion_IsTheModulesVersion(t *testing.T) {
	dep := func(v string) []*debug.Module {
		return []*debug.Module{{Path: "other", Version: "v9"}, {Path: module, Version: v}}
	}
	for name, c := range map[string]struct {
		info debug.BuildInfo
		want string
	}{
		"a gateway that requires a release":  {debug.BuildInfo{Main: debug.Module{Path: "gateway", Version: "v3.0.0"}, Deps: dep("v0.1.0")}, "v0.1.0"},
		"a gateway with a replaced module":   {debug.BuildInfo{Main: debug.Module{Path: "gateway"}, Deps: dep("v0.0.0-00010101000000-000000000000")}, "devel"},
		"the command, installed":             {debug.BuildInfo{Main: debug.Module{Path: module, Version: "v0.1.0"}}, "v0.1.0"},
		"the command, built from a checkout": {debug.BuildInfo{Main: debug.Module{Path: module, Version: "(devel)"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}}}, "devel-0123456789ab"},
		"the command, built without a VCS":   {debug.BuildInfo{Main: debug.Module{Path: module, Version: "(devel)"}}, "devel"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := version(&c.info); got != c.want {
				t.Errorf("version %q, want %q", got, c.want)
			}
		})
	}
	if Version() == "" {
		t.Error("Version() is empty")
	}
}

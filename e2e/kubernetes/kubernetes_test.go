// Package kubernetes_test compares the manifests and the image with the types of
// Kubernetes and of the Prometheus Operator, and with the programs.
package kubernetes_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

const base = "../../deploy/kubernetes"

var update = flag.Bool("update", false, "write deploy/kubernetes/prometheusrule.yaml")

// decode decodes a manifest into its Kubernetes type. It fails the test for a field
// that the type does not have.
func decode[T any](t *testing.T, name string) T {
	t.Helper()
	var v T
	if err := yaml.UnmarshalStrict(read(t, filepath.Join(base, name)), &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// kustomization has the fields of kustomize's type that the base uses.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources"`
	Labels     []struct {
		Pairs map[string]string `json:"pairs"`
	} `json:"labels"`
	Images []struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
	} `json:"images"`
	ConfigMapGenerator []struct {
		Name     string   `json:"name"`
		Files    []string `json:"files"`
		Literals []string `json:"literals"`
	} `json:"configMapGenerator"`
}

func TestManifests_DecodeIntoKubernetesTypes(t *testing.T) {
	k := decode[kustomization](t, "kustomization.yaml")
	deployment := decode[apps.Deployment](t, "deployment.yaml")
	job := decode[batch.Job](t, "migrate.yaml")
	service := decode[core.Service](t, "service.yaml")
	pdb := decode[policy.PodDisruptionBudget](t, "poddisruptionbudget.yaml")
	monitor := decode[monitoring.ServiceMonitor](t, "servicemonitor.yaml")
	rule := decode[monitoring.PrometheusRule](t, "prometheusrule.yaml")

	kinds := map[string]string{
		"deployment.yaml": deployment.APIVersion + " " + deployment.Kind, "migrate.yaml": job.APIVersion + " " + job.Kind,
		"service.yaml": service.APIVersion + " " + service.Kind, "poddisruptionbudget.yaml": pdb.APIVersion + " " + pdb.Kind,
		"servicemonitor.yaml": monitor.APIVersion + " " + monitor.Kind, "prometheusrule.yaml": rule.APIVersion + " " + rule.Kind,
	}
	want := map[string]string{
		"deployment.yaml": "apps/v1 Deployment", "migrate.yaml": "batch/v1 Job", "service.yaml": "v1 Service", "poddisruptionbudget.yaml": "policy/v1 PodDisruptionBudget",
		"servicemonitor.yaml": "monitoring.coreos.com/v1 ServiceMonitor", "prometheusrule.yaml": "monitoring.coreos.com/v1 PrometheusRule",
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("kinds (-want +got)\n%s", diff)
	}
	files, err := filepath.Glob(filepath.Join(base, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := filepath.Base(f); name != "kustomization.yaml" && !slices.Contains(k.Resources, name) {
			t.Errorf("kustomization.yaml does not list %s", name)
		}
	}
	for _, labels := range []map[string]string{service.Spec.Selector, pdb.Spec.Selector.MatchLabels, deployment.Spec.Selector.MatchLabels} {
		for name, value := range labels {
			if deployment.Spec.Template.Labels[name] != value {
				t.Errorf("a selector requires the label %s=%s, which the pods do not have", name, value)
			}
		}
	}
	for name, value := range monitor.Spec.Selector.MatchLabels {
		if service.Labels[name] != value {
			t.Errorf("the ServiceMonitor requires the label %s=%s, which the service does not have", name, value)
		}
	}
}

func TestConfiguration_IsValidForTheModule(t *testing.T) {
	k := decode[kustomization](t, "kustomization.yaml")
	env := map[string]string{}
	for _, g := range k.ConfigMapGenerator {
		for _, l := range g.Literals {
			name, value, _ := strings.Cut(l, "=")
			env[name] = value
		}
		for _, f := range g.Files {
			if _, err := mapping.Load(filepath.Join(base, f)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
	cfg, err := automation.ParseConfig(env)
	if err != nil {
		t.Fatal(err)
	}
	d := decode[apps.Deployment](t, "deployment.yaml").Spec.Template.Spec
	delay, err := time.ParseDuration(env["SHUTDOWN_DELAY"])
	if err != nil {
		t.Fatal(err)
	}
	preStop := time.Duration(d.Containers[0].Lifecycle.PreStop.Sleep.Seconds) * time.Second
	// examples/server first drains its own requests, for a second longer than the
	// module's time-out, and then the module.
	sum := preStop + delay + cfg.DrainTimeout + time.Second + cfg.DrainTimeout
	if grace := time.Duration(*d.TerminationGracePeriodSeconds) * time.Second; grace <= sum {
		t.Errorf("terminationGracePeriodSeconds is %v, want more than %v, the longest shutdown", grace, sum)
	}
	if cfg.DefaultOptIn {
		t.Error("AUTOMATION_DEFAULT_OPT_IN is true: the manifests switch automation on for users who did not choose it")
	}
}

func TestDeployment_TakesAReplicaOutOnlyWhenItCannotServe(t *testing.T) {
	d := decode[apps.Deployment](t, "deployment.yaml")
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	for name, p := range map[string]*core.Probe{"liveness": c.LivenessProbe, "startup": c.StartupProbe} {
		if p.HTTPGet.Path != "/healthz/live" {
			t.Errorf("the %s probe requests %s, want /healthz/live", name, p.HTTPGet.Path)
		}
	}
	if c.ReadinessProbe.HTTPGet.Path != "/healthz/serving" {
		t.Errorf("the readiness probe requests %s, want /healthz/serving, which does not fail during an outage of the database", c.ReadinessProbe.HTTPGet.Path)
	}
	if d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 || *d.Spec.Replicas < 2 {
		t.Error("a rolling update may stop a replica before its successor is ready, or there are fewer than two replicas")
	}
	for name, p := range map[string]core.PodSpec{"deployment": pod, "job": decode[batch.Job](t, "migrate.yaml").Spec.Template.Spec} {
		s := p.Containers[0].SecurityContext
		if !*p.SecurityContext.RunAsNonRoot || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Drop) != 1 {
			t.Errorf("the %s's container has more privileges than it needs", name)
		}
	}
	if refs := c.EnvFrom; len(refs) != 2 || refs[1].SecretRef == nil {
		t.Error("the second source of the environment is not a reference to a Secret")
	}
}

func TestPrometheusRule_HasTheRulesOfTheFile(t *testing.T) {
	rules := read(t, "../../deploy/prometheus/automation.rules.yml")
	_, groups, _ := bytes.Cut(rules, []byte("\ngroups:\n"))
	var text strings.Builder
	text.WriteString("# The rules of deploy/prometheus/automation.rules.yml for Prometheus' operator. A\n# test compares them; -update writes this file.\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: automation\nspec:\n  groups:\n")
	for line := range strings.Lines(string(groups)) {
		if strings.TrimSpace(line) != "" {
			line = "  " + line
		}
		text.WriteString(line)
	}
	name := filepath.Join(base, "prometheusrule.yaml")
	if *update {
		if err := os.WriteFile(name, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(text.String(), string(read(t, name))); diff != "" {
		t.Errorf("prometheusrule.yaml differs from automation.rules.yml; run go test ./kubernetes -run PrometheusRule -update in e2e (-want +got)\n%s", diff)
	}
}

// build builds the programs as the Dockerfile does.
func build(t *testing.T, dir string) {
	t.Helper()
	text := string(read(t, "../../deploy/Dockerfile"))
	builds := regexp.MustCompile(`CGO_ENABLED=0 go build .* -o /out/(\w+) (\./[\w/]+)`).FindAllStringSubmatch(text, -1)
	if len(builds) != 2 || !strings.Contains(text, ":nonroot\n") || !strings.Contains(text, "\nUSER 65532:65532\n") {
		t.Fatalf("deploy/Dockerfile has the builds %v, want two, and the user nonroot", builds)
	}
	for _, b := range builds {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, b[1]), b[2])
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", b[2], err, out)
		}
	}
}

// The programs run with only what the image has: a root folder with themselves and
// the mapping, as an unprivileged user who may not write to it.
func TestImage_ProgramsRunInAnEmptyRootAsAnOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may change the root folder")
	}
	root, err := os.MkdirTemp("", "image")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	build(t, root)
	for _, dir := range []string{"etc/automation", "data"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/automation/model_mappings.json"), read(t, "../../model_mappings.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	const user = 65532
	if err := os.Chown(filepath.Join(root, "data"), user, user); err != nil {
		t.Fatal(err)
	}
	program := func(env []string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Path, cmd.Dir, cmd.Env, cmd.Err = args[0], "/", env, nil
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: user, Gid: user}, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	env := []string{"DATABASE_URL=sqlite:/data/automation.db", "MODEL_MAPPINGS_FILE=/etc/automation/model_mappings.json", "ADDR=127.0.0.1:0"}
	for _, args := range [][]string{{"version"}, {"migrate", "up"}, {"verify"}, {"mapping", "check"}, {"flags", "list"}} {
		if out, err := program(env, append([]string{"/automationctl"}, args...)...).CombinedOutput(); err != nil {
			t.Errorf("automationctl %q: %v\n%s", args, err, out)
		}
	}

	gateway := program(env, "/gateway")
	out, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var logs bytes.Buffer
	gateway.Stderr = &logs
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "http://127.0.0.1:") {
		t.Errorf("the gateway printed %q, error %v; want its address\n%s", buf[:n], err, logs.String())
	}
	if err := gateway.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	if err := gateway.Wait(); err != nil {
		t.Errorf("the gateway ended with %v\n%s", err, logs.String())
	}
}

package kubernetes_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// This builds the base as kubectl apply -k does, and checks the result.
func TestBase_BuildsIntoKubernetesTypes(t *testing.T) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), base)
	if err != nil {
		t.Fatal(err)
	}
	var deployment apps.Deployment
	var job batch.Job
	configs := map[string]core.ConfigMap{}
	kinds := map[string]int{}
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		kinds[r.GetKind()]++
		if r.GetLabels()["app.kubernetes.io/part-of"] != "automation" {
			t.Errorf("%s %s does not have the common label app.kubernetes.io/part-of=automation", r.GetKind(), r.GetName())
		}
		var into any
		var config core.ConfigMap
		switch r.GetApiVersion() + " " + r.GetKind() {
		case "apps/v1 Deployment":
			into = &deployment
		case "batch/v1 Job":
			into = &job
		case "v1 ConfigMap":
			into = &config
		case "v1 Service":
			into = &core.Service{}
		case "policy/v1 PodDisruptionBudget":
			into = &policy.PodDisruptionBudget{}
		case "monitoring.coreos.com/v1 ServiceMonitor":
			into = &monitoring.ServiceMonitor{}
		case "monitoring.coreos.com/v1 PrometheusRule":
			into = &monitoring.PrometheusRule{}
		default:
			t.Fatalf("the base has a %s %s, which this test does not know", r.GetApiVersion(), r.GetKind())
		}
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Errorf("%s %s: %v\n%s", r.GetKind(), r.GetName(), err, text)
		}
		if config.Name != "" {
			configs[config.Name] = config
		}
	}
	want := map[string]int{"Deployment": 1, "Job": 1, "ConfigMap": 2, "Service": 1, "PodDisruptionBudget": 1, "ServiceMonitor": 1, "PrometheusRule": 1}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("resources by kind (-want +got)\n%s", diff)
	}

	// A ConfigMap's name has a hash of its content, so that a change restarts the
	// pods. The pods have to refer to the names with the hashes.
	referred := map[string]bool{}
	for _, pod := range []core.PodSpec{deployment.Spec.Template.Spec, job.Spec.Template.Spec} {
		for _, v := range pod.Volumes {
			if v.ConfigMap != nil {
				referred[v.ConfigMap.Name] = true
			}
		}
		for _, c := range pod.Containers {
			for _, from := range c.EnvFrom {
				if from.ConfigMapRef != nil {
					referred[from.ConfigMapRef.Name] = true
				}
			}
			if !strings.HasPrefix(c.Image, "registry.example.com/automation-gateway:v") {
				t.Errorf("the container %s has the image %s, want the image that kustomization.yaml sets", c.Name, c.Image)
			}
		}
	}
	for name, config := range configs {
		if !referred[name] {
			t.Errorf("no pod refers to the ConfigMap %s", name)
		}
		delete(referred, name)
		if strings.HasPrefix(name, "automation-mapping-") && !strings.Contains(config.Data["model_mappings.json"], "{") {
			t.Errorf("%s has no mapping: %v", name, config.Data)
		}
	}
	if len(referred) > 0 {
		t.Errorf("the pods refer to ConfigMaps that the base does not make: %v", referred)
	}
}

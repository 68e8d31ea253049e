// Package deploy has no code except tests. Its folder has what operators deploy with
// a gateway: alert rules for Prometheus, a dashboard for Grafana, Kubernetes
// manifests, a Dockerfile, and the grants of the database's role. The tests compare
// these files with the program.
package deploy

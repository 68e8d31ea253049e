// Package deploy holds what is deployed with a gateway: alert rules for
// Prometheus, a dashboard for Grafana, and the grants of the database's role.
// It has no code but the tests that compare these with the program.
package deploy

// Package rollout moves flags through the stages of their plans, evaluates how
// requests end, and sends the webhooks. Package flags/rollout is its public part
// and describes the rules; the operators' API, the command and the report use
// this package directly.
//
// A [Controller] runs in every replica and takes the automatic steps. [Store]
// has the operators' actions and views, and needs no running controller.
// [Recorder] counts how requests end.
package rollout

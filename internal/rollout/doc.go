// Package rollout is what package flags/rollout, the operators' API and command,
// and the report do their work with: it moves flags through the stages of their
// plans, evaluates what becomes of the requests, and sends the webhooks.
// Package flags/rollout describes how.
//
// [Controller] does what happens by itself, and one runs in every replica.
// [Store] is what operators do and see, and works whether any controller runs.
// [Recorder] counts what becomes of requests.
package rollout

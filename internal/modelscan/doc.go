// Package modelscan finds the model that a request in the OpenAI shape asks
// for, without decoding the request.
//
// Find looks for the top-level "model" of a JSON object or the model field of a
// multipart form. It also works on the beginning of a body, and returns
// ErrIncomplete if that is too short.
//
// It validates only what it needs: long strings are skipped, nested values only have
// to close their brackets, and nothing after the model is read. The next handler
// rejects a body that is malformed there. If a body has two models, the first one
// counts, although most decoders use the last: waiting for a second one would mean
// reading every body to its end. The name is matched exactly, as OpenAI's API does.
package modelscan

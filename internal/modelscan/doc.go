// Package modelscan finds the model that a request in the OpenAI shape asks
// for, without decoding the request.
//
// Find looks for the top-level "model" of a JSON object or the model field of a
// multipart form. It works on the beginning of a body too, and returns
// ErrIncomplete where that is too short.
//
// It does not validate what it does not need: long strings are skipped, nested
// values only have to close their brackets, and nothing after the model is
// looked at. The next handler refuses a body that is broken there. If the model
// is given twice, the first one counts, though most decoders take the last:
// waiting for a second would mean reading every body to its end. The name is
// matched exactly, as OpenAI's API does.
package modelscan

// Package modelscan finds the model that a request in the OpenAI shape asks
// for, without decoding the request.
//
// Find reads a body as far as it must, keeps what it read, and stops at the
// top-level "model" of a JSON object or the model field of a multipart form.
// Result.Restore then puts the body together again for the next handler, byte
// for byte:
//
//	found, err := modelscan.Find(r.Header.Get("Content-Type"), r.Body, limit)
//	r.Body = found.Restore(r.Body)
//
// What Find does not need it does not judge: long strings are skipped, nested
// values only have to close their brackets, and nothing after the model is
// read. A body that is broken there is the next handler's to refuse. The same
// goes for a model given twice: the first one counts, where most decoders take
// the last, because waiting for a second would mean reading every body to its
// end. The name is matched exactly, as OpenAI's API does.
package modelscan

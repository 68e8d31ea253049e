// Package reqbody reads the bodies of requests into memory, within a budget for
// the process and with protection against clients that send slowly or not at all.
//
//	body := reqbody.New(w, r, reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
//	defer body.Close()
//	model, err := body.Model() // reads up to the model
//	text, err := body.Bytes()  // reads the rest
//
// Each body has one buffer. It gets the size of Content-Length only after the client
// has sent 64 KiB: announcing a large body costs a client nothing, so it must not cost
// the process much either. The connection of a client that sends less than 10 KiB in
// 10 seconds is closed.
package reqbody

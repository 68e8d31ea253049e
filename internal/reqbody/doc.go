// Package reqbody reads the bodies of requests into memory, within a budget for
// the process and without trusting clients to send.
//
//	body := reqbody.New(w, r, reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
//	defer body.Close()
//	model, err := body.Model() // reads as far as it must
//	text, err := body.Bytes()  // reads the rest
//
// Each body has one buffer. It is as large as Content-Length says, but only
// once a client has sent 64 KiB: announcing a large body costs a client nothing,
// so it must not cost the process much either. A client that sends less than
// 10 KiB in 10 seconds is cut off.
package reqbody

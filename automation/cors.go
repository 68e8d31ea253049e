package automation

// What a host's CORS middleware has to allow and expose if browsers call the
// handlers from another origin. The module itself sets no CORS header.
const (
	CORSMethods       = "GET, POST, PUT, PATCH, DELETE"
	CORSAllowHeaders  = "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, session_id, chat_id, X-Request-Id"
	CORSExposeHeaders = "X-Automation-Session, X-Automation-Model, X-Request-Id, X-Should-Retry, Retry-After, ETag"
)

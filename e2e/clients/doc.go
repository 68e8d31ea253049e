// Package clients has only tests. They use third-party clients with examples/server,
// which runs as a process of its own and is stopped and killed during some tests:
// the official OpenAI SDKs for Go and JavaScript, Vercel's AI SDK and LangChain. They
// assert what the user of an SDK sees.
//
// The JavaScript tests are in the folder js. TestJavaScript runs them, and is skipped
// unless their packages are installed: run `npm install --no-package-lock
// --ignore-scripts` in js.
package clients

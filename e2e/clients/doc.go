// Package clients holds tests alone: clients that nobody here wrote against
// examples/server, which runs as a process of its own and is ended, and killed,
// on the way. They are the official OpenAI SDKs for Go and JavaScript, Vercel's
// AI SDK and LangChain. What is asserted is what the user of an SDK sees.
//
// The JavaScript is in js; `npm install --no-package-lock --ignore-scripts` there
// makes TestJavaScript run.
package clients

// Reads {secret, headers, body} from standard input. The exit status is 0 if the
// official library accepts the webhook.
import { Webhook } from "standardwebhooks";

let input = "";
for await (const chunk of process.stdin) input += chunk;
const { secret, headers, body } = JSON.parse(input);
const event = new Webhook(secret).verify(body, headers);
if (typeof event.type !== "string" || Number.isNaN(Date.parse(event.timestamp)) || typeof event.data !== "object") {
  throw new Error("not an event: " + body);
}

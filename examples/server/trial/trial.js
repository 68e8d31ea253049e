// The trial page: a client of the gateway's own API, as any other would be.
"use strict";

const $ = (id) => document.getElementById(id);
const api = "api/v1/";
const known = new Set(); // sessions seen before a request, to tell a new one from one that is reused
let running = null; // the AbortController of the answer that is coming

function call(path, options = {}) {
	const headers = { Authorization: "Bearer sk-" + $("user").value, ...options.headers };
	if (options.body !== undefined) {
		headers["Content-Type"] = "application/json";
	}
	return fetch(path, { ...options, headers });
}

async function problemOf(answer) {
	const body = await answer.json().catch(() => ({}));
	const text = body.error?.message ?? [body.detail, ...(body.errors ?? []).map((e) => e.field + " " + e.message)].filter(Boolean).join(" ");
	const wait = answer.headers.get("Retry-After");
	return `${answer.status}: ${text || answer.statusText}${wait ? ` Try again in ${wait} s.` : ""}`;
}

function element(tag, className, text) {
	const e = document.createElement(tag);
	e.className = className;
	e.textContent = text;
	return e;
}

const short = (id) => (id.length > 16 ? id.slice(0, 8) + "…" + id.slice(-6) : id);

// deltas yields the text of a stream of chat completion chunks.
async function* deltas(body) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	for (;;) {
		const { value, done } = await reader.read();
		if (done) {
			return;
		}
		rest += value;
		const events = rest.split("\n\n");
		rest = events.pop();
		for (const event of events) {
			const data = event.replace(/^data: ?/gm, "");
			if (data === "[DONE]") {
				return;
			}
			const chunk = JSON.parse(data);
			if (chunk.error) {
				throw new Error(chunk.error.message);
			}
			yield chunk.choices?.[0]?.delta?.content ?? "";
		}
	}
}

async function ask(prompt) {
	const turn = element("div", "turn", "");
	const text = element("p", "text", "");
	const meta = element("p", "meta", "waiting for a session …");
	turn.append(element("p", "said", prompt), text, meta);
	$("answers").append(turn);
	turn.scrollIntoView({ block: "nearest" });
	running = new AbortController();
	$("stop").disabled = false;
	const begun = performance.now();
	const took = () => Math.round(performance.now() - begun) + " ms";
	try {
		const answer = await call(api + "chat/completions", {
			method: "POST", signal: running.signal,
			body: JSON.stringify({ model: $("model").value, stream: true, messages: [{ role: "user", content: prompt }] }),
		});
		if (!answer.ok) {
			throw new Error(await problemOf(answer));
		}
		const session = answer.headers.get("X-Automation-Session");
		const first = took();
		for await (const piece of deltas(answer.body)) {
			text.textContent += piece;
		}
		const paid = known.has(session) ? "reused, nothing was paid" : "opened and paid for this request";
		meta.textContent = session ? `Session ${short(session)} (${paid}), model ${answer.headers.get("X-Automation-Model")}; first byte after ${first}, all after ${took()}.` : `No session of automation's; ${took()}.`;
		known.add(session);
	} catch (error) {
		meta.textContent = (error.name === "AbortError" ? "Stopped" : error.message) + ` (after ${took()})`;
		meta.classList.add("bad");
	} finally {
		running = null;
		$("stop").disabled = true;
		refresh();
	}
}

async function refresh() {
	const [status, sessions] = await Promise.all([call(api + "automation/status"), call(api + "automation/sessions")]);
	if (status.ok) {
		const s = await status.json();
		const budget = s.budget ?? {};
		const rows = { automation: s.enabled ? "on" : `off (${s.reason.replaceAll("_", " ")})` };
		if (budget.sessions_held !== undefined) {
			rows["sessions held"] = budget.sessions_max ? `${budget.sessions_held} of ${budget.sessions_max}` : budget.sessions_held;
		}
		for (const [key, label] of [["opens_left_hour", "opens left this hour"], ["opens_left_day", "opens left today"]]) {
			if (budget[key] !== undefined && budget[key] !== null) {
				rows[label] = budget[key];
			}
		}
		$("status").replaceChildren(...Object.entries(rows).map(([k, v]) => {
			const pair = document.createElement("div");
			pair.append(element("dt", "", k), element("dd", "", v));
			return pair;
		}));
		$("notice").hidden = !s.notice;
		$("notice").textContent = s.notice;
	}
	const list = sessions.ok ? (await sessions.json()).sessions : [];
	$("sessions").replaceChildren(...list.map((s) => {
		known.add(s.id);
		const row = document.createElement("tr");
		const id = element("td", "", "");
		id.append(element("code", "", short(s.id)));
		const left = element("td", "", "");
		left.dataset.until = s.ends_at;
		const end = element("button", "", "End");
		end.setAttribute("aria-label", "End session " + short(s.id));
		end.addEventListener("click", async () => { await call(api + "automation/sessions/" + s.id, { method: "DELETE" }); refresh(); });
		const cell = document.createElement("td");
		cell.append(end);
		row.append(id, element("td", "", s.model), element("td", "", s.state.replace("_", " ")), left, cell);
		return row;
	}));
	countDown();
}

function countDown() {
	for (const cell of document.querySelectorAll("[data-until]")) {
		const left = Math.max(0, Math.round((new Date(cell.dataset.until) - Date.now()) / 1000));
		cell.textContent = `${Math.floor(left / 60)} min ${left % 60} s`;
	}
}

async function showSettings() {
	const answer = await call(api + "automation/settings");
	if (answer.ok) {
		const s = await answer.json();
		$("enabled").checked = s.is_enabled;
		$("duration").value = s.session_duration;
	}
}

async function showFaults() {
	const answer = await fetch("trial/faults");
	if (!answer.ok) {
		$("faults-section").hidden = true; // a real node: nothing to choose
		return;
	}
	const { faults, active } = await answer.json();
	$("faults").replaceChildren(...[{ name: "", description: "none" }, ...faults].map((f) => {
		const option = element("option", "", f.description);
		option.value = f.name;
		option.selected = f.name === active;
		return option;
	}));
}

async function chooseFault() {
	const name = $("faults").value;
	const answer = await fetch("trial/faults", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name }) });
	$("fault-note").textContent = !answer.ok ? "The fault was not set." : name ? "Now chat and see." : "The node works again.";
}

async function start() {
	const [models, about] = await Promise.all([call(api + "models"), fetch("trial/about")]);
	const list = models.ok ? (await models.json()).data : [];
	$("model").replaceChildren(...list.filter((m) => !m.model_type || m.model_type === "LLM").map((m) => element("option", "", m.id)));
	if (about.ok) {
		$("running").textContent = (await about.json()).text;
	}
	await Promise.all([refresh(), showSettings(), showFaults()]);
}

$("ask").addEventListener("submit", (event) => {
	event.preventDefault();
	if (running === null) {
		ask($("prompt").value);
	}
});
$("stop").addEventListener("click", () => running?.abort());
$("user").addEventListener("change", () => { known.clear(); refresh(); showSettings(); });
$("settings").addEventListener("submit", async (event) => {
	event.preventDefault();
	const body = JSON.stringify({ is_enabled: $("enabled").checked, session_duration: Number($("duration").value) });
	const answer = await call(api + "automation/settings", { method: "PUT", body });
	$("saved").textContent = answer.ok ? "Saved." : await problemOf(answer);
	refresh();
});
$("feedback").addEventListener("submit", async (event) => {
	event.preventDefault();
	const rating = $("rating").value;
	const body = JSON.stringify({ message: $("message").value, ...(rating && { rating: Number(rating) }) });
	const answer = await call(api + "automation/feedback", { method: "POST", body });
	$("thanks").textContent = answer.ok ? "Thank you." : await problemOf(answer);
	if (answer.ok) {
		$("message").value = "";
	}
});
$("faults").addEventListener("change", chooseFault);
setInterval(countDown, 1000);
setInterval(() => { if (!document.hidden && running === null) refresh(); }, 5000);
start();

// Refreshes the parts of a page that are marked data-live, and shows a notice
// as its readers will see it. Every page works without this file.
"use strict";

const interval = 5000;

async function refresh() {
	const live = document.querySelectorAll("[data-live]");
	if (live.length === 0 || document.hidden) {
		return;
	}
	const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
	if (!answer.ok || answer.redirected) {
		return;
	}
	const page = new DOMParser().parseFromString(await answer.text(), "text/html");
	for (const old of live) {
		const fresh = page.getElementById(old.id);
		if (fresh === null || old.contains(document.activeElement)) {
			continue;
		}
		const open = old.querySelector("details[open]") !== null;
		old.replaceChildren(...fresh.childNodes);
		const details = old.querySelector("details");
		if (open && details !== null) {
			details.open = true;
		}
	}
}

setInterval(() => refresh().catch(() => {}), interval);

for (const field of document.querySelectorAll("[data-preview]")) {
	field.addEventListener("input", () => {
		document.getElementById(field.dataset.preview).textContent = field.value || "Automation is off.";
	});
}

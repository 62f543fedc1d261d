"use strict";

// What SAQ's own script, which is loaded after this one, goes by.
const root_path = "/admin/queues";

(() => {
  const HOME = root_path + "/";
  const LOGIN = root_path + "/login";
  const EVERY_MS = 2000;
  const bareFetch = window.fetch.bind(window);
  const notice = document.getElementById("notice");
  const table = document.getElementById("jobs");

  // SAQ's script knows its first view with a slash only.
  if (window.location.pathname === root_path) {
    window.history.replaceState(null, "", HOME);
  }

  const token = () => {
    const found = document.cookie.split("; ").find((each) => each.startsWith("nng_admin_csrf="));
    return found ? found.slice(found.indexOf("=") + 1) : "";
  };

  // Everything that asks the gateway goes through here: with the token, to the login page once the session has ended,
  // and with a refusal turned into what SAQ's script shows as an error.
  window.fetch = async (path, options = {}) => {
    const changes = (options.method || "get").toLowerCase() !== "get";
    const headers = new Headers(options.headers);
    if (changes) {
      headers.set("X-CSRF-Token", token());
    }
    const response = await bareFetch(path, { ...options, headers });
    if (response.ok) {
      if (changes) {
        notice.textContent = "";
      }
      return response;
    }
    if (response.status === 401) {
      window.location.assign(LOGIN);
    }
    const problem = await response.json().catch(() => ({}));
    const told = problem.detail || `The gateway answered ${response.status}.`;
    if (changes) {
      notice.textContent = told;
    }
    return new Response(JSON.stringify({ error: told }), { status: response.status });
  };

  const act = async (path) => {
    await window.fetch(root_path + "/api" + path, { method: "post" }).catch(() => {
      notice.textContent = "The gateway does not answer.";
    });
    await show();
  };

  const cell = (...children) => {
    const made = document.createElement("td");
    made.append(...children);
    return made;
  };

  const button = (label, path) => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "outline";
    made.textContent = label;
    made.addEventListener("click", () => act(path));
    return made;
  };

  const row = (job) => {
    const made = document.createElement("tr");
    made.dataset.job = job.name;
    const link = document.createElement("a");
    link.href = `${root_path}/queues/gateway/jobs/${encodeURIComponent(job.key)}`;
    link.textContent = job.name;
    const at = job.last ? job.last.completed || job.last.started || job.last.queued : 0;
    const buttons = [button("Run now", `/jobs/${encodeURIComponent(job.name)}/run`)];
    if (job.can_retry) {
      buttons.push(button("Retry", `/queues/gateway/jobs/${encodeURIComponent(job.key)}/retry`));
    }
    made.append(
      cell(job.last ? link : job.name),
      cell(at ? new Date(at).toLocaleString() : ""),
      cell(job.last ? job.last.status : ""),
      cell(...buttons),
    );
    return made;
  };

  let shown = "";

  // The rows are made anew only when something has changed, so that a button does not vanish under the mouse.
  const show = async () => {
    const answer = await window.fetch(root_path + "/api/jobs").then((response) => response.json()).catch(() => ({}));
    const now = JSON.stringify(answer.jobs);
    if (answer.jobs && now !== shown) {
      table.replaceChildren(...answer.jobs.map(row));
      shown = now;
    }
  };

  // SAQ's page of a job names its queue by a path that forgets where the dashboard is.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link && link.pathname.startsWith("/queues/")) {
      event.preventDefault();
      event.stopImmediatePropagation();
      window.location.assign(root_path + link.pathname);
    }
  }, true);

  document.getElementById("logout").addEventListener("click", async (event) => {
    event.preventDefault();
    await window.fetch(event.currentTarget.href, { method: "post" });
    window.location.assign(LOGIN);
  });

  show();
  window.setInterval(show, EVERY_MS);
})();

// The management API, as this page's user.

/** A value encoded as one segment of a path. */
export const part = encodeURIComponent;

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

let loggedOut = () => {};
/** Called when the session has ended. */
export const onLogout = (callback) => (loggedOut = callback);

/** Sends a request to `path` below /api. Returns the parsed JSON of the response, or null if it has none. */
export async function api(path, { method = "GET", body, headers = {} } = {}) {
  let response;
  try {
    response = await fetch(`api${path}`, {
      method,
      headers: { "X-Requested-With": "gatepost", ...headers },
      body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "The gateway does not answer.");
  }
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* Not JSON: the status says it. */ }
  if (response.ok) return answer;
  const reason = typeof answer?.reason === "string" ? answer.reason : answer?.error ?? (response.status >= 502 ? "The gateway does not answer (its proxy says so)." : `The gateway answers ${response.status} ${response.statusText}.`);
  if (response.status === 401 && path !== "/session" && answer?.error !== "not_authorised") loggedOut();
  throw new Refused(response.status, reason);
}

export const put = (path, body) => api(path, { method: "PUT", body });
export const post = (path, body) => api(path, { method: "POST", body });
export const remove = (path, headers) => api(path, { method: "DELETE", headers });

/** Text for a header, which takes characters up to U+00FF only: its UTF-8 bytes, one character each. */
export const octets = (text) => String.fromCharCode(...new TextEncoder().encode(text));

export async function logIn(user, password) {
  const basic = btoa(octets(`${user}:${password}`));
  return api("/session", { method: "POST", headers: { Authorization: `Basic ${basic}` } });
}

export const logOut = () => remove("/session");

/** A query string of the parameters that are not empty. */
export function query(values) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) if (value !== undefined && value !== "" && value !== false) search.set(key, value);
  const text = search.toString();
  return text ? `?${text}` : "";
}

"""Who may use the management API, the answers to those who may not, and what all requests have in common."""

import gzip
import json

from harness import HOST, METRICS, case, equal, main, unique
from management import ADMIN, MANAGEMENT, Api, segment, user


@case
def no_credentials_401_with_basic_realm_and_empty_body():
    answer = Api(None).ask("GET", "/api/overview")
    equal((answer.status, answer.body), (401, b""))
    equal(answer.headers["www-authenticate"].lower(), 'basic realm="rabbitmq management"')


@case
def bad_password_401_not_authorized():
    for name, password in (("guest", "wrong"), ("nobody", "guest")):
        answer = Api(name, password).ask("GET", "/api/overview")
        equal((answer.status, answer.json), (401, {"error": "not_authorized", "reason": "Login failed"}))


@case(differs="rabbitmq")
def malformed_credentials_are_refused():
    for value in ("Basic !!!", "Basic Z3Vlc3Q=", "Digest x", "Bearer a.b.c", "Basic"):
        equal(Api(None).ask("GET", "/api/overview", headers={"authorization": value}).status, 401, value)


@case
def forbidden_is_401_not_403():
    monitor, manager = user(unique("monitor"), "monitoring"), user(unique("manager"), "management", ["/"])
    for api in (monitor, manager):
        answer = api.ask("GET", "/api/users")
        equal((answer.status, answer.json), (401, {"error": "not_authorised", "reason": "Not administrator user"}))
        equal(api.ask("PUT", "/api/vhosts/x", "{}").status, 401)


@case
def untagged_user_refused():
    answer = user(unique("plain"), "", ["/"]).ask("GET", "/api/whoami")
    equal((answer.status, answer.json), (401, {"error": "not_authorised", "reason": "Not management user"}))


@case(differs="rabbitmq")
def metrics_want_a_monitor_where_the_configuration_says_so():
    """`metrics.auth = true`. Probes need no login."""

    def status(name, password="s3cret", path="/metrics"):
        return Api(name, password, METRICS).ask("GET", path).status

    monitor, manager = unique("monitor"), unique("manager")
    user(monitor, "monitoring")
    user(manager, "management", ["/"])
    for path in ("/metrics", "/metrics/per-object", "/metrics/detailed?family=queue_coarse_metrics"):
        equal((status(monitor, path=path), status("guest", "guest", path)), (200, 200), path)
        equal([status(None, path=path), status(monitor, "wrong", path), status(manager, path=path)], [401] * 3, path)
    answer = Api(None, port=METRICS).ask("GET", "/metrics")
    assert answer.headers["www-authenticate"].startswith("Basic "), answer.headers
    for path in ("/healthz", "/readyz"):
        equal(status(None, path=path), 200, path)
    page = Api(monitor, "s3cret", METRICS).ask("GET", "/metrics").body
    assert b"\nrabbitmq_identity_info{" in page


@case
def management_user_lists_only_visible_vhosts():
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}")
    manager, monitor = user(unique("manager"), "management", [vhost]), user(unique("monitor"), "monitoring")
    equal([v["name"] for v in manager.get("/api/vhosts")], [vhost])
    assert {"/", vhost} <= {v["name"] for v in monitor.get("/api/vhosts")}
    equal([v["name"] for v in user(unique("manager"), "management").get("/api/vhosts")], [])
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def whoami_says_name_and_tags():
    name = unique("who")
    me = user(name, "management,policymaker").get("/api/whoami")
    equal((me["name"], sorted(me["tags"])), (name, ["management", "policymaker"]))


@case(differs="rabbitmq")
def a_user_sees_its_own_permissions():
    name = unique("own")
    equal([p["vhost"] for p in user(name, "management", ["/"]).get(f"/api/users/{name}/permissions")], ["/"])


@case
def blank_password_refused():
    name = unique("blank")
    ADMIN.put(f"/api/users/{name}", {"password_hash": "", "tags": "administrator"})
    equal(Api(name, "").ask("GET", "/api/whoami").status, 401)


@case
def a_changed_password_and_a_deleted_user_count_at_once():
    name = unique("late")
    api = user(name, "administrator", password="one")
    api.get("/api/whoami")
    ADMIN.put(f"/api/users/{name}", {"password": "two", "tags": "administrator"})
    equal(api.ask("GET", "/api/whoami").status, 401)
    Api(name, "two").get("/api/whoami")
    ADMIN.delete(f"/api/users/{name}")
    equal(Api(name, "two").ask("GET", "/api/whoami").status, 401)


@case
def unknown_object_404_json_body():
    for path in ("/api/users/nobody-at-all", "/api/vhosts/nowhere", "/api/nonsense"):
        answer = ADMIN.ask("GET", path)
        equal((answer.status, sorted(answer.json)), (404, ["error", "reason"]), path)
        assert isinstance(answer.reason, str)


@case
def slash_vhost_as_percent_2f():
    equal(ADMIN.get("/api/vhosts/%2F")["name"], "/")
    name = unique("a/b c")
    ADMIN.put(f"/api/vhosts/{segment(name)}", expect=201)
    equal(ADMIN.get(f"/api/vhosts/{segment(name)}")["name"], name)
    ADMIN.delete(f"/api/vhosts/{segment(name)}")


@case
def a_trailing_slash_and_head_are_taken():
    equal(ADMIN.get("/api/vhosts/")[0].keys() > {"name"}, True)
    answer = ADMIN.ask("HEAD", "/api/vhosts")
    equal((answer.status, answer.body, answer.headers["content-type"]), (200, b"", "application/json"))


@case
def a_wrong_method_405_says_which_are_right():
    answer = ADMIN.ask("DELETE", "/api/overview")
    equal(answer.status, 405)
    assert "GET" in answer.headers["allow"], answer.headers["allow"]


@case
def options_need_no_credentials():
    answer = Api(None).ask("OPTIONS", "/api/vhosts/%2F")
    equal(answer.status, 200)
    allowed = {method.strip() for method in answer.headers["allow"].split(",")}
    assert {"GET", "PUT", "DELETE"} <= allowed, allowed


@case
def null_body_is_empty_object():
    name = unique("v")
    ADMIN.put(f"/api/vhosts/{name}", "null", expect=201)
    ADMIN.put(f"/api/vhosts/{name}", "", expect=204)
    ADMIN.delete(f"/api/vhosts/{name}")


@case
def long_answers_are_compressed_for_who_asks():
    plain = ADMIN.ask("GET", "/api/exchanges/%2F")
    assert "content-encoding" not in plain.headers, plain.headers
    packed = ADMIN.ask("GET", "/api/exchanges/%2F", headers={"accept-encoding": "gzip, deflate"})
    equal((packed.status, packed.headers["content-encoding"], packed.headers["content-type"]), (200, "gzip", "application/json"))
    assert "accept-encoding" in packed.headers["vary"].lower(), packed.headers
    assert len(packed.body) < len(plain.body) / 2, (len(packed.body), len(plain.body))
    names = [exchange["name"] for exchange in json.loads(gzip.decompress(packed.body))]
    assert "amq.topic" in names, names


@case(differs="rabbitmq")
def definitions_may_be_longer_than_other_bodies():
    long = json.dumps({"users": [], "note": "x" * (3 << 20)})
    equal(ADMIN.ask("POST", "/api/definitions", long).status, 204)
    equal(ADMIN.ask("POST", "/api/definitions/%2F", long).status, 204)
    answer = ADMIN.ask("POST", "/api/definitions", headers={"content-length": str(17 << 20)})
    equal((answer.status, answer.json["error"]), (413, "payload_too_large"))
    assert "management.definitions_max" in answer.json["reason"], answer.json
    # Only administrators import them.
    answer = user(unique("manager"), "policymaker", ["/"]).ask("POST", "/api/definitions/%2F", headers={"content-length": str(2 << 20)})
    equal(answer.status, 413)
    assert "management.max_body" in answer.json["reason"], answer.json


@case
def logins_are_counted_by_protocol():
    node = segment(ADMIN.get("/api/nodes")[0]["name"])
    Api("guest", "wrong").ask("GET", "/api/overview")
    for row in ADMIN.get(f"/api/auth/attempts/{node}"):
        equal(row["auth_attempts"], row["auth_attempts_failed"] + row["auth_attempts_succeeded"])
        assert isinstance(row["protocol"], str), row


@case(differs="rabbitmq")
def a_body_that_is_too_long_is_refused():
    # The body is not sent: the request is refused by its Content-Length.
    answer = ADMIN.ask("PUT", "/api/users/x", headers={"content-length": str(2 << 20)})
    equal((answer.status, answer.json["error"]), (413, "payload_too_large"))


@case(differs="rabbitmq")
def a_page_of_another_server_changes_nothing():
    name = unique("v")
    for origin in ("https://evil.example", "null"):
        answer = ADMIN.ask("PUT", f"/api/vhosts/{name}", "{}", {"origin": origin})
        equal(answer.status, 403, origin)
        equal(ADMIN.ask("GET", "/api/vhosts", headers={"origin": origin}).headers["access-control-allow-origin"], None)
    ADMIN.get(f"/api/vhosts/{name}", expect=404)
    own = {"origin": f"http://{HOST}:{MANAGEMENT}"}
    equal(ADMIN.ask("PUT", f"/api/vhosts/{name}", "{}", own).status, 201)
    ADMIN.delete(f"/api/vhosts/{name}")


@case(differs="rabbitmq")
def a_page_that_the_configuration_names_may():
    origin = {"origin": "https://panel.example"}
    answer = Api(None).ask("OPTIONS", "/api/vhosts/x", headers={**origin, "access-control-request-headers": "authorization"})
    equal(answer.status, 200)
    equal(answer.headers["access-control-allow-origin"], "https://panel.example")
    equal(answer.headers["access-control-allow-headers"], "authorization")
    assert "PUT" in answer.headers["access-control-allow-methods"]
    name = unique("v")
    equal(ADMIN.ask("PUT", f"/api/vhosts/{name}", "{}", origin).status, 201)
    ADMIN.delete(f"/api/vhosts/{name}")


@case(differs="rabbitmq")
def probes_need_no_credentials():
    for path in ("/healthz", "/readyz"):
        equal(Api(None).ask("GET", path).status, 200, path)


@case(differs="rabbitmq")
def the_consoles_own_page_is_known_behind_a_proxy():
    name = unique("v")
    path, origin = f"/api/vhosts/{name}", {"origin": "https://gate.example", "host": "upstream:15672"}
    equal(ADMIN.ask("PUT", path, "{}", origin).status, 403)
    for said in ({"x-forwarded-host": "gate.example"}, {"sec-fetch-site": "same-origin"}):
        assert ADMIN.ask("PUT", path, "{}", {**origin, **said}).status in (201, 204), said
    for said in ({"x-forwarded-host": "evil.example"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "cross-site"}):
        equal(ADMIN.ask("PUT", path, "{}", {**origin, **said}).status, 403, str(said))
    ADMIN.delete(path)


@case
def user_put_requires_tags():
    name = unique("tags")
    for body in ({"password": "x"}, {"password_hash": ""}, {}):
        answer = ADMIN.ask("PUT", f"/api/users/{name}", body)
        equal((answer.status, answer.json), (400, {"error": "bad_request", "reason": "tags_not_present"}), body)
    ADMIN.get(f"/api/users/{name}", expect=404)
    for tags, expected in (("", []), ([], []), ("management,policymaker", ["management", "policymaker"])):
        ADMIN.put(f"/api/users/{name}", {"password": "x", "tags": tags})
        equal(ADMIN.get(f"/api/users/{name}")["tags"], expected)
    ADMIN.delete(f"/api/users/{name}")


@case(differs="rabbitmq")
def reason_is_always_string():
    """RabbitMQ sends lists as well, which clients that are strict about types cannot read."""
    queue, vhost = unique("reason"), unique("v")
    ADMIN.put(f"/api/queues/%2F/{queue}", {"durable": True})
    wrong = [
        ("GET", "/api/nothing", None, 404),
        ("GET", "/api/queues/nowhere", None, 404),
        ("GET", f"/api/queues/%2F/{vhost}", None, 404),
        ("GET", "/api/queues?page=x", None, 400),
        ("GET", "/api/queues?page=1&page_size=501", None, 400),
        ("GET", "/api/health/checks/port-listener/x", None, 400),
        ("GET", "/api/health/checks/port-listener/1", None, 503),
        ("PUT", f"/api/queues/%2F/{queue}", {"durable": "maybe"}, 400),
        ("PUT", f"/api/queues/%2F/{queue}", {"durable": False}, 400),
        ("PUT", f"/api/queues/%2F/{queue}", {"arguments": 7}, 400),
        ("PUT", f"/api/queues/%2F/{queue}", "{", 400),
        ("PUT", f"/api/queues/%2F/{queue}", "[]", 400),
        ("PUT", f"/api/exchanges/%2F/{queue}", {"type": "nosuch"}, 400),
        ("POST", f"/api/queues/%2F/{queue}/get", {}, 400),
        ("POST", f"/api/queues/%2F/{queue}/get", {"count": 1, "ackmode": "x", "encoding": "auto"}, 400),
        ("POST", "/api/exchanges/%2F/amq.default/publish", {}, 400),
        ("POST", f"/api/bindings/%2F/e/nowhere/q/{queue}", {}, 404),
        ("PUT", f"/api/policies/%2F/{queue}", {"pattern": "(", "definition": {"max-length": 1}}, 400),
        ("PUT", f"/api/policies/%2F/{queue}", {"pattern": "", "definition": {"nosuch": 1}}, 400),
        ("PUT", f"/api/permissions/{vhost}/guest", {"configure": "", "write": "", "read": ""}, 400),
        ("PUT", "/api/permissions/%2F/guest", {"configure": "(", "write": "", "read": ""}, 400),
        ("PUT", f"/api/vhost-limits/{vhost}/max-queues", {"value": 1}, 404),
        ("PUT", "/api/parameters/nosuch/%2F/x", {"value": 1}, 400),
        ("POST", "/api/definitions", "{", 400),
        ("POST", "/api/definitions", {"queues": [{"name": "q", "vhost": vhost}]}, 400),
    ]
    for method, path, body, status in wrong:
        answer = ADMIN.ask(method, path, body)
        equal(answer.status, status, (method, path, body, answer.body))
        kind = {key: type(answer.json.get(key)) for key in ("error", "reason")}
        # A failed health check has a `status` instead of an `error`.
        assert kind["reason"] is str and (kind["error"] is str or status == 503), (method, path, answer.body)
    ADMIN.delete(f"/api/queues/%2F/{queue}")


@case(differs="rabbitmq")
def every_answer_has_security_headers_for_browsers():
    for path, api in (("/", Api(None)), ("/app.js", Api(None)), ("/api/whoami", ADMIN), ("/api/whoami", Api(None)), ("/nothing", ADMIN)):
        answer = api.ask("GET", path)
        equal(answer.headers["x-content-type-options"], "nosniff", path)
        equal((answer.headers["x-frame-options"], answer.headers["referrer-policy"]), ("DENY", "no-referrer"), path)
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy, policy
        assert policy.startswith("default-src 'self'" if api.headers == {} and "api" not in path else "default-src 'none'"), (path, policy)
    first = Api(None).ask("GET", "/")
    again = Api(None).ask("GET", "/", headers={"if-none-match": first.headers["etag"]})
    equal((again.status, again.headers["content-security-policy"]), (304, first.headers["content-security-policy"]))


@case(differs="rabbitmq")
def a_session_begins_with_a_password_and_ends_with_a_logout():
    name = unique("browser")
    api = user(name, "management")
    answer = api.ask("POST", "/api/session")
    equal(answer.status, 204)
    cookie = answer.headers["set-cookie"]
    equal(cookie.split("; ")[1:], ["Path=/", "HttpOnly", "SameSite=Strict"])
    assert api.ask("POST", "/api/session", headers={"x-forwarded-proto": "https"}).headers["set-cookie"].endswith("; Secure")
    session = {"cookie": cookie.split(";")[0]}
    equal(Api(None).ask("GET", "/api/whoami", headers=session).json["name"], name)
    equal(Api(None).ask("DELETE", "/api/session", headers=session).status, 204)
    equal(Api(None).ask("GET", "/api/whoami", headers=session).status, 401)
    # The console has its own login form: without `WWW-Authenticate`, the browser does not show one.
    answer = Api(None).ask("GET", "/api/whoami", headers={**session, "x-requested-with": "gatepost"})
    equal((answer.status, answer.headers["www-authenticate"]), (401, None))
    equal(Api(name, "wrong").ask("POST", "/api/session").json["reason"], "Login failed")


if __name__ == "__main__":
    main()

"""An HTTP server for the gateway's requests to other servers: `answer` gives each answer."""

import http.server
import ssl
import threading
import urllib.parse


class Server:
    """`answer(path, fields)` returns a status and a text, or raises to break the connection off."""

    def __init__(self, answer, tls=None):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Without TCP_NODELAY, the body of each answer would wait for the acknowledgement of its head.
            disable_nagle_algorithm = True

            def handle_one(self):
                length = int(self.headers.get("Content-Length") or 0)
                text = self.rfile.read(length).decode()
                fields = dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
                outer.requests.append((self.path, fields or text))
                try:
                    status, body = answer(self.path, fields or text)
                except ConnectionError:
                    self.close_connection = True
                    return
                body = body.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = handle_one

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path):
        return f"{self.scheme}://127.0.0.1:{self.server.server_port}{path}"


def configure(text):
    """Appends to the gateway's configuration."""
    with open("gatepost.toml", "a") as file:
        file.write(text)

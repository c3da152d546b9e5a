"""A server of this machine that answers as the Hugging Face Hub does for one repository, `test/notes`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMIT = "1" * 40
REPOSITORY = "test/notes"


@contextmanager
def hub_server(folder: Path, kind: str = "datasets") -> Iterator[str]:
    """Serve the files of `folder` as a repository of datasets or models; yields the URL for HF_ENDPOINT."""
    import logging

    from flask import Flask, abort, jsonify, make_response, request, send_file
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Flask(__name__)

    def describe(path: Path) -> dict[str, Any]:
        size = path.stat().st_size
        return {"type": "file", "oid": f"{size:040x}", "size": size, "path": path.relative_to(folder).as_posix()}

    @app.get(f"/api/{kind}/{REPOSITORY}")
    @app.get(f"/api/{kind}/{REPOSITORY}/revision/<revision>")
    def info(revision: str = "main") -> Any:
        names = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        return jsonify({"_id": "1", "id": REPOSITORY, "sha": COMMIT, "private": False, "siblings": names, "tags": []})

    @app.get(f"/api/{kind}/{REPOSITORY}/tree/<revision>")
    def tree(revision: str) -> Any:
        return jsonify([describe(path) for path in sorted(folder.iterdir())])

    @app.post(f"/api/{kind}/{REPOSITORY}/paths-info/<revision>")
    def paths_info(revision: str) -> Any:
        names = request.form.getlist("paths")
        return jsonify([describe(folder / name) for name in names if (folder / name).is_file()])

    @app.route(
        f"{'' if kind == 'models' else '/datasets'}/{REPOSITORY}/resolve/<revision>/<name>", methods=["GET", "HEAD"]
    )
    def resolve(revision: str, name: str) -> Any:
        if not (folder / name).is_file():
            abort(404)
        response = make_response(send_file(folder / name, conditional=True))
        response.headers["X-Repo-Commit"] = COMMIT
        response.headers["ETag"] = f'"{describe(folder / name)["oid"]}"'
        return response

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

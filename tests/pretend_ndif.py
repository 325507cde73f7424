"""A server that answers as NDIF does, in a process that has nnsight and no interp.

    python pretend_ndif.py MODEL_FOLDER TASK

prints its port, and runs what nnsight's own client sends it on the model of the folder.
"""

import asyncio
import io
import sys
import traceback
import uuid

import nnsight
import torch
import zstandard
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.tracer import _saves, dec, inc
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

SESSIONS = {}


def run(model, request, blob):
    """What the request saves, as bytes."""
    model._remoteable_set_env(request.env)
    tracer = RequestModel.deserialize(
        blob, model._remoteable_persistent_objects(), request.compress
    )
    inc()
    try:
        with torch.no_grad():
            tracer.execute(tracer.info.code)
        held = tracer.info.frame.f_locals
        saved = {name: value for name, value in held.items() if id(value) in _saves()}
    finally:
        dec()
    out = io.BytesIO()
    torch.save(saved, out)
    return (
        zstandard.ZstdCompressor().compress(out.getvalue()) if request.compress else out.getvalue()
    )


class Subscribe(WebSocketHandler):
    def open(self, *args, **kwargs):
        name = uuid.uuid4().hex
        SESSIONS[name] = self
        self.write_message({"session_id": name})


class Request(RequestHandler):
    def post(self):
        request = RequestModel.model_validate_json(self.get_body_argument("data"))
        blob = self.request.files["blob"][0]["body"]
        self.write(ResponseModel(id="1", status=Status.RECEIVED).model_dump_json())
        asyncio.get_running_loop().call_soon(self.answer, request, blob)

    def answer(self, request, blob):
        try:
            data = run(self.application.settings["model"], request, blob)
            response = ResponseModel(id="1", status=Status.COMPLETED, data=data)
        except Exception:
            told = traceback.format_exc()
            response = ResponseModel(id="1", status=Status.ERROR, description=told)
        SESSIONS[request.session_id].write_message(response.pickle(), binary=True)


async def main(folder, task):
    model = nnsight.TransformersModel(folder, task=task, dispatch=True)
    parts = [("/subscribe", Subscribe), ("/request", Request)]
    server = HTTPServer(Application(parts, model=model, websocket_max_message_size=1 << 30))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.sleep(300)  # it goes by itself, should nobody end it


if __name__ == "__main__":
    sys.modules["interp"] = None  # type: ignore[assignment]  # whoever imports it here gets an ImportError
    asyncio.run(main(*sys.argv[1:]))

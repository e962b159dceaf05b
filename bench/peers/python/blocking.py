"""The services for a pool of threads: each call has one of them until it ends."""

from work import Download, Guests, Refused, Upload, greeting, opening_of, services, unexpected


class refusing:
    """Ends the call where something in the block is refused."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        pass

    def __exit__(self, _kind, error, _trace):
        if isinstance(error, Refused):
            self.context.abort(error.code, error.details)


class Greeter(services.GreeterServicer):
    def SayHello(self, request, context):
        with refusing(context):
            return greeting(request)

    def LotsOfReplies(self, request, context):
        with refusing(context):
            reply = greeting(request)
        for _ in range(request.replies):
            yield reply

    def LotsOfGreetings(self, requests, context):
        guests = Guests()
        with refusing(context):
            for request in requests:
                guests.add(request)
        return guests.greeting()

    def BidiHello(self, requests, context):
        with refusing(context):
            for request in requests:
                yield greeting(request)


class FileController(services.FileControllerServicer):
    def __init__(self, paths):
        self.paths = paths

    def ReadStream(self, request, context):
        with refusing(context), Download(self.paths, request) as download:
            yield download.info
            while chunk := download.next():
                yield chunk

    def WriteStream(self, requests, context):
        with refusing(context), Upload(self.paths, opening_of(next(requests, None))) as upload:
            yield upload.opened
            for request in requests:
                step = request.WhichOneof("step")
                if step == "chunk":
                    upload.write(request.chunk)
                elif step == "finish":
                    yield upload.finish(request.finish)
                    return
                else:
                    raise unexpected(step)

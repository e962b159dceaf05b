"""The services for an event loop. What touches a disk is done by a thread, so that the loop never waits for one."""

from asyncio import to_thread

from work import Download, Guests, Refused, Upload, greeting, opening_of, services, unexpected


class refusing:
    """Ends the call where something in the block is refused."""

    def __init__(self, context):
        self.context = context

    async def __aenter__(self):
        pass

    async def __aexit__(self, _kind, error, _trace):
        if isinstance(error, Refused):
            await self.context.abort(error.code, error.details)


class Greeter(services.GreeterServicer):
    async def SayHello(self, request, context):
        async with refusing(context):
            return greeting(request)

    async def LotsOfReplies(self, request, context):
        async with refusing(context):
            reply = greeting(request)
        for _ in range(request.replies):
            yield reply

    async def LotsOfGreetings(self, requests, context):
        guests = Guests()
        async with refusing(context):
            async for request in requests:
                guests.add(request)
        return guests.greeting()

    async def BidiHello(self, requests, context):
        async with refusing(context):
            async for request in requests:
                yield greeting(request)


class FileController(services.FileControllerServicer):
    def __init__(self, paths):
        self.paths = paths

    async def ReadStream(self, request, context):
        async with refusing(context):
            with await to_thread(Download, self.paths, request) as download:
                yield download.info
                while chunk := await to_thread(download.next):
                    yield chunk

    async def WriteStream(self, requests, context):
        async with refusing(context):
            opening = opening_of(await anext(requests, None))
            with await to_thread(Upload, self.paths, opening) as upload:
                yield upload.opened
                async for request in requests:
                    step = request.WhichOneof("step")
                    if step == "chunk":
                        await to_thread(upload.write, request.chunk)
                    elif step == "finish":
                        yield await to_thread(upload.finish, request.finish)
                        return
                    else:
                        raise unexpected(step)

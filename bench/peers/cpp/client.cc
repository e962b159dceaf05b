// How fast gRPC C++'s own client gets through BidiHello, pipelined:
//
//     client bidi --address 127.0.0.1:50051 --messages 1000000
//
// prints {"messages":1000000,"seconds":1.234567}, or says on standard error what went wrong.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "mux.grpc.pb.h"

namespace {

constexpr int kMiB = 1 << 20;

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "client: %s\n", why.c_str());
  std::exit(1);
}

void Bidi(const std::string& address, uint64_t messages) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16 * kMiB);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMiB);
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    Fail("no connection to " + address);
  }

  const auto stub = muxs::Greeter::NewStub(channel);
  grpc::ClientContext context;
  const auto start = std::chrono::steady_clock::now();
  const auto stream = stub->BidiHello(&context);

  std::thread writer([&] {
    muxs::HelloRequest request;
    request.set_name("you");
    // Lets the library gather messages until they are worth a system call; WritesDone sends the rest. Not with the first
    // message, which carries the headers: while they are held back, nothing ever leaves.
    const auto gathered = grpc::WriteOptions().set_buffer_hint();
    for (uint64_t i = 0; i < messages; ++i) {
      if (!stream->Write(request, i > 0 ? gathered : grpc::WriteOptions())) return;
    }
    stream->WritesDone();
  });

  uint64_t replies = 0;
  bool right = true;
  muxs::HelloReply reply;
  while (stream->Read(&reply)) {
    ++replies;
    right = right && reply.message() == "Hello, you!";
  }
  writer.join();
  const grpc::Status status = stream->Finish();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;

  if (!status.ok()) Fail("the call failed: " + status.error_message());
  if (!right) Fail("a reply greets somebody else");
  if (replies != messages) Fail(std::to_string(replies) + " replies came");
  std::printf("{\"messages\":%llu,\"seconds\":%.6f}\n", static_cast<unsigned long long>(messages), took.count());
}

}  // namespace

int main(int argc, char** argv) {
  std::string address;
  uint64_t messages = 0;
  if (argc != 6 || argv[1] != std::string("bidi")) Fail("usage: client bidi --address HOST:PORT --messages N");
  for (int i = 2; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--address") {
      address = argv[i + 1];
    } else if (flag == "--messages") {
      messages = std::strtoull(argv[i + 1], nullptr, 10);
    } else {
      Fail("no such flag: " + flag);
    }
  }
  Bidi(address, messages);
}

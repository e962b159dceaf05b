// The contract served by gRPC C++:
//
//     server --listen 127.0.0.1:50051 --root DIR
//
// Each method is on the API that is the faster for it, measured with one core for the server: calls with one message
// each, and ReadStream, on the callback API; streams of small messages, and WriteStream, on the synchronous one, where
// a thread of the call's own costs less than a callback for each message.

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <isa-l/crc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "mux.grpc.pb.h"

namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;
using grpc::WriteOptions;

constexpr int kMiB = 1 << 20;
constexpr size_t kDefaultChunk = 256 << 10;
// How many replies of BidiHello wait to be sent.
constexpr size_t kRepliesAhead = 1024;

uint32_t Crc32c(const std::string& data, uint32_t before = 0) {
  return ~crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<char*>(data.data())), static_cast<int>(data.size()),
                      ~before);
}

std::string Hello(const std::string& name) { return "Hello, " + name + "!"; }

// Lets the library gather messages until they are worth a system call. Not to be asked for the first of a stream: that
// one carries the headers, and while they are held back, nothing ever leaves.
WriteOptions Gathered(bool more_follow) {
  WriteOptions options;
  if (more_follow) options.set_buffer_hint();
  return options;
}

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int operator*() const { return number_; }

 private:
  int number_ = -1;
};

class Greeter final : public muxs::Greeter::WithCallbackMethod_SayHello<muxs::Greeter::Service> {
 public:
  grpc::ServerUnaryReactor* SayHello(grpc::CallbackServerContext* context, const muxs::HelloRequest* request,
                                     muxs::HelloReply* reply) override {
    reply->set_message(Hello(request->name()));
    auto* reactor = context->DefaultReactor();
    reactor->Finish(Status::OK);
    return reactor;
  }

  Status LotsOfReplies(ServerContext*, const muxs::HelloRequest* request,
                       grpc::ServerWriter<muxs::HelloReply>* writer) override {
    muxs::HelloReply reply;
    reply.set_message(Hello(request->name()));
    const uint32_t replies = request->replies();
    for (uint32_t at = 0; at < replies; ++at) {
      if (!writer->Write(reply, Gathered(at > 0 && at + 1 < replies))) break;
    }
    return Status::OK;
  }

  Status LotsOfGreetings(ServerContext*, grpc::ServerReader<muxs::HelloRequest>* reader,
                         muxs::HelloReply* reply) override {
    muxs::HelloRequest request;
    uint64_t greetings = 0;
    while (reader->Read(&request)) ++greetings;
    reply->set_message(Hello(std::to_string(greetings)));
    return Status::OK;
  }

  // A thread sends what another has made, so that replies can be gathered, and still none waits for the next request.
  Status BidiHello(ServerContext*, grpc::ServerReaderWriter<muxs::HelloReply, muxs::HelloRequest>* stream) override {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<muxs::HelloReply> replies;
    bool ended = false;
    std::thread writer([&] {
      std::deque<muxs::HelloReply> batch;
      bool reached = true;
      bool first = true;
      for (;;) {
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return ended || !replies.empty(); });
          if (replies.empty()) return;
          batch.clear();
          batch.swap(replies);
        }
        changed.notify_one();
        for (size_t at = 0; at < batch.size() && reached; ++at) {
          reached = stream->Write(batch[at], Gathered(!first && at + 1 < batch.size()));
          first = false;
        }
      }
    });
    muxs::HelloRequest request;
    while (stream->Read(&request)) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return replies.size() < kRepliesAhead; });
      replies.emplace_back().set_message(Hello(request.name()));
      if (replies.size() == 1) changed.notify_one();
    }
    {
      std::lock_guard lock(mutex);
      ended = true;
    }
    changed.notify_one();
    writer.join();
    return Status::OK;
  }
};

// Sends a file, chunk by chunk.
class Download final : public grpc::ServerWriteReactor<muxs::ReadStreamResponse> {
 public:
  Download(const std::string& root, const muxs::ReadStreamRequest& request)
      : file_(open((root + "/" + request.filename()).c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat found {};
    if (*file_ < 0 || fstat(*file_, &found) != 0) {
      Finish({StatusCode::NOT_FOUND, "there is no such file"});
      return;
    }
    const auto size = static_cast<uint64_t>(found.st_size);
    offset_ = request.offset();
    if (offset_ > size) {
      Finish({StatusCode::OUT_OF_RANGE, "the offset is beyond the end"});
      return;
    }
    left_ = size - offset_;
    if (request.length() > 0) left_ = std::min(left_, request.length());
    if (request.max_chunk_bytes() > 0) chunk_ = std::min<size_t>(request.max_chunk_bytes(), kMiB);
    response_.mutable_info()->set_filename(request.filename());
    response_.mutable_info()->set_size(size);
    StartWrite(&response_);
  }

  void OnWriteDone(bool reached) override {
    if (!reached || left_ == 0) {
      Finish(Status::OK);
      return;
    }
    auto* chunk = response_.mutable_chunk();
    auto* data = chunk->mutable_data();
    data->resize(std::min<uint64_t>(left_, chunk_));
    if (pread(*file_, data->data(), data->size(), static_cast<off_t>(offset_)) != static_cast<ssize_t>(data->size())) {
      Finish({StatusCode::ABORTED, "the file changed"});
      return;
    }
    chunk->set_offset(offset_);
    chunk->set_crc32c(Crc32c(*data));
    offset_ += data->size();
    left_ -= data->size();
    StartWrite(&response_, Gathered(left_ > 0));
  }

  void OnDone() override { delete this; }

 private:
  Descriptor file_;
  uint64_t offset_ = 0;
  uint64_t left_ = 0;
  size_t chunk_ = kDefaultChunk;
  muxs::ReadStreamResponse response_;
};

// Takes the steps of an upload.
class Upload {
 public:
  explicit Upload(const std::string& root) : root_(root) {}

  // What is to be answered, if anything is.
  Status Take(const muxs::WriteStreamRequest& request, muxs::WriteStreamResponse* answer) {
    switch (request.step_case()) {
      case muxs::WriteStreamRequest::kOpen:
        return Open(request.open(), answer);
      case muxs::WriteStreamRequest::kChunk:
        return Append(request.chunk());
      case muxs::WriteStreamRequest::kFinish:
        return Commit(request.finish(), answer);
      default:
        return {StatusCode::INVALID_ARGUMENT, "a step has to be set"};
    }
  }

 private:
  Status Open(const muxs::OpenUpload& open_upload, muxs::WriteStreamResponse* answer) {
    filename_ = open_upload.filename();
    staged_ = root_ + "/.upload-" + open_upload.upload_id();
    file_ = Descriptor(open(staged_.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644));
    if (*file_ < 0) return {StatusCode::INTERNAL, "the file cannot be made"};
    auto* progress = answer->mutable_progress();
    progress->set_upload_id(open_upload.upload_id());
    progress->set_max_chunk_bytes(kMiB);
    return Status::OK;
  }

  Status Append(const muxs::Chunk& chunk) {
    const std::string& data = chunk.data();
    if (chunk.offset() != size_) return {StatusCode::ABORTED, "the chunk is at the wrong offset"};
    if (chunk.has_crc32c() && chunk.crc32c() != Crc32c(data)) return {StatusCode::ABORTED, "the chunk is corrupt"};
    if (pwrite(*file_, data.data(), data.size(), static_cast<off_t>(size_)) != static_cast<ssize_t>(data.size())) {
      return {StatusCode::INTERNAL, "the file cannot be written"};
    }
    size_ += data.size();
    crc32c_ = Crc32c(data, crc32c_);
    return Status::OK;
  }

  Status Commit(const muxs::FinishUpload& finish, muxs::WriteStreamResponse* answer) {
    if (finish.size() != size_ || (finish.has_crc32c() && finish.crc32c() != crc32c_)) {
      return {StatusCode::INVALID_ARGUMENT, "size or checksum differ"};
    }
    if (fdatasync(*file_) != 0 || std::rename(staged_.c_str(), (root_ + "/" + filename_).c_str()) != 0) {
      return {StatusCode::INTERNAL, "the file cannot be put in its place"};
    }
    answer->mutable_committed()->set_filename(filename_);
    answer->mutable_committed()->set_size(size_);
    return Status::OK;
  }

  const std::string& root_;
  std::string filename_;
  std::string staged_;
  Descriptor file_;
  uint64_t size_ = 0;
  uint32_t crc32c_ = 0;
};

class FileController final : public muxs::FileController::WithCallbackMethod_ReadStream<muxs::FileController::Service> {
 public:
  explicit FileController(std::string root) : root_(std::move(root)) {}

  grpc::ServerWriteReactor<muxs::ReadStreamResponse>* ReadStream(grpc::CallbackServerContext*,
                                                                 const muxs::ReadStreamRequest* request) override {
    return new Download(root_, *request);
  }

  Status WriteStream(ServerContext*,
                     grpc::ServerReaderWriter<muxs::WriteStreamResponse, muxs::WriteStreamRequest>* stream) override {
    Upload upload(root_);
    muxs::WriteStreamRequest request;
    while (stream->Read(&request)) {
      muxs::WriteStreamResponse answer;
      const Status taken = upload.Take(request, &answer);
      if (!taken.ok()) return taken;
      if (answer.state_case() != muxs::WriteStreamResponse::STATE_NOT_SET) stream->Write(answer);
      if (answer.has_committed()) break;
    }
    return Status::OK;
  }

 private:
  const std::string root_;
};

[[noreturn]] void Usage() {
  std::fprintf(stderr, "usage: server --listen HOST:PORT --root DIR\n");
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  std::string address;
  std::string root;
  if (argc != 5) Usage();
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--listen") {
      address = argv[i + 1];
    } else if (flag == "--root") {
      root = argv[i + 1];
    } else {
      Usage();
    }
  }

  Greeter greeter;
  FileController files(root);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kMiB);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMiB);
  builder.RegisterService(&greeter);
  builder.RegisterService(&files);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "server: cannot listen on %s\n", address.c_str());
    return 1;
  }
  std::printf("listening on %s:%d\n", address.substr(0, address.rfind(':')).c_str(), port);
  std::fflush(stdout);
  server->Wait();
}

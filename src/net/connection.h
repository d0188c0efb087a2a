// One connection of a Server: reads requests, has them handled, writes responses. Lives on the server's I/O
// thread.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <ctime>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <semaphore>
#include <string>
#include <thread>

#include "base/fd.h"
#include "net/message.h"
#include "net/ready_set.h"
#include "net/server.h"
#include "net/tls.h"

namespace dstack::net {

class Connection;
class StreamPump;

// What connections share. Everything but `handler` and `run_job` belongs to the I/O thread.
struct ServerCore {
  boost::asio::io_context io{1};
  ReadySet ready{io};  // the connections' sockets
  Handler handler;
  ServerOptions options;
  // Runs a job on a worker. Unset: handlers run on the I/O thread.
  std::function<void(std::function<void()>)> run_job;
  std::list<std::shared_ptr<Connection>> connections;
  std::size_t lingering = 0;  // connections that only wait for the peer to read the last bytes
  std::list<std::shared_ptr<StreamPump>> pumps;
  bool stopping = false;
  std::function<void()> on_connection_gone;
  // Reads of all connections land here: there is one thread, and what is not consumed at once is copied.
  char buffer[64 * 1024];

  std::string_view date();

 private:
  std::time_t m_date_second = 0;
  std::string m_date;
};

class Connection final : public ReadyHandler, public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerCore& core, base::Fd fd, Peer peer, const TlsContext* tls);
  ~Connection();

  void start();
  void on_ready(std::uint32_t events) override;
  // Answers 503 and ends; for connections over the limit.
  void refuse();
  // Called regularly: ends what has waited for too long.
  void check_deadline(std::chrono::steady_clock::time_point now);
  // The server stops: ends an idle connection, lets a busy one answer first.
  void wind_down();
  void close();

  // The StreamPump hands over its next chunk; nullopt ends the body, `broken` without its final mark.
  void on_chunk(std::optional<std::string> chunk, bool broken);

  std::list<std::shared_ptr<Connection>>::iterator position;          // in ServerCore::connections
  std::optional<std::chrono::steady_clock::time_point> served_since;  // never, when it was refused

 private:
  enum class Phase { handshake, idle, header, body, handling, streaming, lingering, closed };

  bool reading_request() const {
    return m_phase == Phase::idle || m_phase == Phase::header || m_phase == Phase::body;
  }
  void set_deadline(std::chrono::milliseconds from_now);
  bool watch();
  void count_as_lingering();
  void wait_readable();
  void read_if_ready();
  void on_readable();
  void on_end_of_input();
  void take_input(std::string_view plain);
  void parse(std::string_view data);
  void dispatch();
  void respond(Response response);
  void respond_error(int status, const std::string& text);
  void start_stream(Response response);
  void end_stream(bool complete);
  void write(std::string_view plain);
  void flush();
  void on_written();
  void finish_exchange();
  void resume();
  void linger();

  ServerCore& m_core;
  base::Fd m_socket;
  Peer m_peer;
  std::unique_ptr<TlsSession> m_tls;
  RequestParser m_parser;
  Phase m_phase = Phase::idle;
  bool m_refused = false;
  bool m_counted_as_lingering = false;
  bool m_reading = false;       // waits until it can read
  bool m_writing = false;       // likewise to write
  bool m_readable = false;      // there may be something to read, of which no event will tell again
  bool m_hung_up = false;       // there will be no event at all any more
  bool m_end_of_input = false;  // the peer has sent FIN
  bool m_resume_posted = false;
  bool m_keep_alive = true;  // of the request in hand
  bool m_http11 = true;
  bool m_head_only = false;
  bool m_chunked = false;
  bool m_continue_sent = false;
  bool m_broken_stream = false;
  std::string m_input;   // plaintext that is not consumed yet
  std::string m_output;  // bytes for the wire
  std::size_t m_output_sent = 0;
  std::shared_ptr<StreamPump> m_pump;
  std::chrono::steady_clock::time_point m_deadline;
};

// Pulls a ChunkSource on a thread of its own, one chunk at a time.
class StreamPump {
 public:
  static constexpr std::size_t k_max = 64;  // at one time

  StreamPump(ServerCore& core, std::weak_ptr<Connection> connection, ChunkSource source);
  ~StreamPump();
  StreamPump(const StreamPump&) = delete;
  StreamPump& operator=(const StreamPump&) = delete;
  // Starts the thread; `position` must be set.
  void start();
  // Asks for one more chunk.
  void pull();
  // The thread ends after the chunk it is working on.
  void cancel();

  std::list<std::shared_ptr<StreamPump>>::iterator position;  // in ServerCore::pumps

 private:
  void work();

  ServerCore& m_core;
  std::weak_ptr<Connection> m_connection;
  ChunkSource m_source;
  std::atomic<bool> m_cancelled = false;
  std::counting_semaphore<> m_wanted{0};
  std::thread m_thread;
};

}  // namespace dstack::net

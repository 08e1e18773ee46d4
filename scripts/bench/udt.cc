// UDT as a peer of `cargo xtask bench transfer`: one file over one connection, by the library's own calls
// for files, with its default options.
//
//   udt send FILE PORT             prints "ready", then serves one connection after the other
//   udt receive ADDRESS PORT FILE  fetches the file and ends

#include <arpa/inet.h>
#include <netinet/in.h>
#include <udt/udt.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>

namespace {

int fail(const char* what) {
  std::cerr << what << ": " << UDT::getlasterror().getErrorMessage() << std::endl;
  return 1;
}

sockaddr_in address(const char* host, const char* port) {
  sockaddr_in out;
  std::memset(&out, 0, sizeof out);
  out.sin_family = AF_INET;
  out.sin_port = htons(static_cast<uint16_t>(std::stoi(port)));
  if (host == nullptr) {
    out.sin_addr.s_addr = INADDR_ANY;
  } else {
    inet_pton(AF_INET, host, &out.sin_addr);
  }
  return out;
}

int send_all(const char* path, const char* port) {
  const UDTSOCKET listener = UDT::socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in own = address(nullptr, port);
  if (UDT::bind(listener, reinterpret_cast<const sockaddr*>(&own), sizeof own) == UDT::ERROR) return fail("bind");
  if (UDT::listen(listener, 4) == UDT::ERROR) return fail("listen");
  std::cout << "ready" << std::endl;
  for (;;) {
    const UDTSOCKET peer = UDT::accept(listener, nullptr, nullptr);
    if (peer == UDT::INVALID_SOCK) return fail("accept");
    // A packet that comes before the other end has finished its handshake counts as lost, and a loss that
    // early ends slow start for good: wait until it asks.
    char word;
    if (UDT::recv(peer, &word, 1, 0) == UDT::ERROR) return fail("recv");
    std::fstream file(path, std::ios::in | std::ios::binary | std::ios::ate);
    const int64_t size = file.tellg();
    int64_t from = 0;
    file.seekg(0);
    if (UDT::send(peer, reinterpret_cast<const char*>(&size), sizeof size, 0) == UDT::ERROR) return fail("send");
    if (UDT::sendfile(peer, file, from, size) == UDT::ERROR) return fail("sendfile");
    // The other end closes first, when it has everything; until then our buffers are still needed.
    UDT::recv(peer, &word, 1, 0);
    UDT::close(peer);
  }
}

int receive(const char* host, const char* port, const char* path) {
  const UDTSOCKET peer = UDT::socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in there = address(host, port);
  if (UDT::connect(peer, reinterpret_cast<const sockaddr*>(&there), sizeof there) == UDT::ERROR) {
    return fail("connect");
  }
  if (UDT::send(peer, "?", 1, 0) == UDT::ERROR) return fail("send");
  int64_t size = 0;
  for (int have = 0; have < static_cast<int>(sizeof size);) {
    const int got = UDT::recv(peer, reinterpret_cast<char*>(&size) + have, sizeof size - have, 0);
    if (got == UDT::ERROR) return fail("recv");
    have += got;
  }
  std::fstream file(path, std::ios::out | std::ios::binary | std::ios::trunc);
  int64_t from = 0;
  if (UDT::recvfile(peer, file, from, size) == UDT::ERROR) return fail("recvfile");
  file.close();
  UDT::close(peer);
  // Everything is written and the other end knows. cleanup() would now wait some seconds for its own
  // housekeeping, which is no part of the transfer.
  std::_Exit(0);
}

}  // namespace

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  UDT::startup();
  int status = 2;
  if (mode == "send" && count == 4) {
    status = send_all(words[2], words[3]);
  } else if (mode == "receive" && count == 5) {
    status = receive(words[2], words[3], words[4]);
  } else {
    std::cerr << "udt send FILE PORT | udt receive ADDRESS PORT FILE" << std::endl;
  }
  UDT::cleanup();
  return status;
}

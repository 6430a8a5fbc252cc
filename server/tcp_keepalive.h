// Finding peers that are gone without having said so: their machine or the network failed.
#pragma once

#include <chrono>

namespace palu {

// The kernel asks a peer that has been silent for `silence` whether it is there, and closes the
// connection after as long again without an answer; likewise where what was sent is not
// acknowledged, but not before write_timeout. 0: the socket is left as it is. Sockets of another
// kind than TCP are left too.
void SetTcpKeepalive(int socket, std::chrono::milliseconds silence,
                     std::chrono::milliseconds write_timeout);

}  // namespace palu

#include "server/grpc_call_log.h"

#include <gtest/gtest.h>

namespace palu {
namespace {

TEST(GrpcCallLog, AddressesArePlainWhateverGrpcWrites) {
  EXPECT_EQ(AddressOfPeer("ipv4:10.0.0.1:5000"), "10.0.0.1");
  EXPECT_EQ(AddressOfPeer("ipv6:[::1]:5000"), "::1");
  EXPECT_EQ(AddressOfPeer("ipv6:%5Bfe80::2%5D:5000"), "fe80::2");
  EXPECT_EQ(AddressOfPeer("unix:/run/palu"), "unix");
  EXPECT_EQ(AddressOfPeer(""), "");
}

}  // namespace
}  // namespace palu

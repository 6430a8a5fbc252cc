// The Open Inference Protocol over gRPC. Included by the gRPC server only.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "server/grpc_calls.h"

namespace palu {

// inference.GRPCInferenceService; shared must outlive it. Thread-safe.
std::unique_ptr<grpc::Service> NewOpenInferenceService(GrpcShared* shared);

}  // namespace palu

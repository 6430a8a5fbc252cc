#include "server/text/sentencepiece_model.h"

#include <dlfcn.h>

#include <algorithm>

namespace palu {
namespace {

using ParseFunction = SentencePieceModel* (*)(const std::string&, std::string*);

#ifdef PALU_SANITIZED
// Sanitizers refuse RTLD_DEEPBIND; their builds of the tokenizers link no other protobuf. Their
// dlopen does not see the program's run path either, hence the whole path.
constexpr int kOpenFlags = RTLD_NOW | RTLD_LOCAL;
constexpr const char* kModule = PALU_SENTENCEPIECE_MODULE;
#else
constexpr int kOpenFlags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
constexpr const char* kModule = "libpalu_sentencepiece.so";
#endif

struct Module {
  ParseFunction parse = nullptr;
  std::string error;
};

// Never closed: models of it may live until the process ends.
Module OpenModule() {
  Module module;
  void* handle = dlopen(kModule, kOpenFlags);
  if (handle != nullptr) {
    module.parse = reinterpret_cast<ParseFunction>(dlsym(handle, "PaluParseSentencePieceModel"));
  }
  if (module.parse == nullptr) module.error = dlerror();
  return module;
}

}  // namespace

std::unique_ptr<SentencePieceModel> ParseSentencePieceModel(const std::string& proto,
                                                            std::string* error) {
  static const Module module = OpenModule();
  std::unique_ptr<SentencePieceModel> model;
  if (module.parse == nullptr) {
    *error = module.error;
  } else {
    model.reset(module.parse(proto, error));
  }
  std::replace(error->begin(), error->end(), '\n', ' ');
  return model;
}

}  // namespace palu

// What the tokenizer needs of libsentencepiece, behind a boundary that the linker cannot cross.
//
// The library carries an old protobuf-lite of its own and exports its symbols; in one process with
// libprotobuf (gRPC) either would run the other's code. So it is linked into a module that is
// opened with a lookup scope of its own (RTLD_LOCAL | RTLD_DEEPBIND) on first use.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

// One parsed model. Immutable; thread-safe. Ids are in [0, size()).
class SentencePieceModel {
 public:
  virtual ~SentencePieceModel() = default;

  virtual int size() const = 0;
  virtual int bos_id() const = 0;  // -1: none
  virtual std::string IdToPiece(int id) const = 0;
  virtual int PieceToId(std::string_view piece) const = 0;  // the unknown piece's id if not there
  virtual bool IsByte(int id) const = 0;
  virtual bool IsControl(int id) const = 0;
  virtual bool IsUnknown(int id) const = 0;
  virtual bool Encode(std::string_view text, std::vector<int32_t>* ids) const = 0;
  virtual bool Decode(const std::vector<int32_t>& ids, std::string* text) const = 0;
};

// proto: the bytes of tokenizer.model. Null when they do not parse or the module is missing; *error
// then says why, in one line.
std::unique_ptr<SentencePieceModel> ParseSentencePieceModel(const std::string& proto,
                                                            std::string* error);

}  // namespace palu

// The module around libsentencepiece; see sentencepiece_model.h.
#include <sentencepiece_processor.h>

#include "server/text/sentencepiece_model.h"

namespace palu {
namespace {

class LibraryModel : public SentencePieceModel {
 public:
  sentencepiece::SentencePieceProcessor& processor() { return processor_; }

  int size() const override { return processor_.GetPieceSize(); }
  int bos_id() const override { return processor_.bos_id(); }
  std::string IdToPiece(int id) const override { return processor_.IdToPiece(id); }
  int PieceToId(std::string_view piece) const override { return processor_.PieceToId(piece); }
  bool IsByte(int id) const override { return processor_.IsByte(id); }
  bool IsControl(int id) const override { return processor_.IsControl(id); }
  bool IsUnknown(int id) const override { return processor_.IsUnknown(id); }
  bool Encode(std::string_view text, std::vector<int32_t>* ids) const override {
    return processor_.Encode(text, ids).ok();
  }
  bool Decode(const std::vector<int32_t>& ids, std::string* text) const override {
    return processor_.Decode(ids, text).ok();
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

// The caller owns the model; null on failure.
extern "C" SentencePieceModel* PaluParseSentencePieceModel(const std::string& proto,
                                                           std::string* error) {
  auto model = std::make_unique<LibraryModel>();
  const auto status = model->processor().LoadFromSerializedProto(proto);
  if (status.ok()) return model.release();
  *error = status.ToString();
  return nullptr;
}

}  // namespace palu

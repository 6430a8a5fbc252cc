#include "server/structured/string_formats.h"

#include <array>
#include <utility>

namespace palu::structured {
namespace {

#define PALU_DATE                                                                                \
  "([1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|" \
  "02-(0[1-9]|1[0-9]|2[0-8])))"
#define PALU_TIME                                                                                  \
  "(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])" \
  ")"
#define PALU_LABEL "([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?)"
#define PALU_HOST "(" PALU_LABEL "(\\." PALU_LABEL "){0,4}\\.[a-z]{2,12})"
#define PALU_OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kFormats = {{
    {"date", "^" PALU_DATE "$"},
    {"time", "^" PALU_TIME "$"},
    {"date-time", "^" PALU_DATE "T" PALU_TIME "$"},
    {"duration",
     "^P([0-9]{1,4}W|([0-9]{1,4}Y([0-9]{1,4}M([0-9]{1,4}D)?)?|[0-9]{1,4}M([0-9]{1,4}D)?|"
     "[0-9]{1,4}D)(T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|"
     "[0-9]{1,4}S))?|T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|"
     "[0-9]{1,4}S))$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
    {"ipv4", "^" PALU_OCTET "(\\." PALU_OCTET "){3}$"},
    {"ipv6", "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$"},
    {"hostname", "^" PALU_HOST "$"},
    {"email",
     "^[A-Za-z0-9]([A-Za-z0-9_+-]{0,30}[A-Za-z0-9])?(\\.[A-Za-z0-9]{1,20}){0,2}@" PALU_HOST "$"},
    {"uri", "^https?://" PALU_HOST "(/[A-Za-z0-9._~-]{0,40}){0,8}$"},
    {"regex", "^[A-Za-z0-9 ]{0,64}$"},
}};

#undef PALU_DATE
#undef PALU_TIME
#undef PALU_LABEL
#undef PALU_HOST
#undef PALU_OCTET

}  // namespace

std::string_view FormatRegex(std::string_view format) {
  for (const auto& [name, regex] : kFormats) {
    if (name == format) return regex;
  }
  return {};
}

}  // namespace palu::structured

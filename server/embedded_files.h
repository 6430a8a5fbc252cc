// Files of server/web, compiled in.
#pragma once

#include <string_view>

namespace palu {

extern const std::string_view kIndexHtml;
extern const std::string_view kOpenApiJson;

}  // namespace palu

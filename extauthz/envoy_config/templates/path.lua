-- Puts the base path of the provider that this attempt goes to before the request's own path.
--
-- An upstream filter: it runs once per attempt, and what an attempt changed is still changed in the next one. So the path is built
-- anew each time from the one that the client asked for, never from what stands in `:path`. The header mutation before this filter
-- has put both parts into headers of ours; they end here. Without the client's path the provider is asked for nothing but `/`: a
-- script that fails would let the attempt go on with whatever path stands there.
function envoy_on_request(handle)
  local headers = handle:headers()
  local base = headers:get("x-extauthz-base") or ""
  local path = headers:get("x-extauthz-path")
  headers:remove("x-extauthz-base")
  headers:remove("x-extauthz-path")
  if path == nil then
    headers:replace(":path", "/")
  else
    headers:replace(":path", base .. path)
  end
end

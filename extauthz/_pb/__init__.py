"""The protobuf messages, from one descriptor set in a private pool.

`descriptors.binpb` is compiled from `protos/` by `scripts/protos.py`. The pool is private, so that nothing clashes with another
package that carries Envoy's or Google's messages, and no Python package here is called `envoy` or `google`.
"""

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(resources.files(__name__).joinpath("descriptors.binpb").read_bytes()).file:
    POOL.Add(_file)


def message(name: str) -> Any:
    """The class of the message with this full name. Raises KeyError when `protos/` declares none."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


CheckRequest = message("envoy.service.auth.v3.CheckRequest")
CheckResponse = message("envoy.service.auth.v3.CheckResponse")
OkHttpResponse = message("envoy.service.auth.v3.OkHttpResponse")
HeaderValueOption = message("envoy.config.core.v3.HeaderValueOption")
HealthCheckRequest = message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = message("grpc.health.v1.HealthCheckResponse")
TenantDocument = message("extauthz.v1.TenantDocument")
KeyDocument = message("extauthz.v1.KeyDocument")

"""Reflection on the reference transport: what a person with grpcurl sees."""

import asyncio
from pathlib import Path

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from extauthz.services.reflection import register
from extauthz.transport.grpcio_server import GrpcioServer
from extauthz.transport.seam import Services


async def test_a_client_finds_the_services_and_their_messages(socket_folder: Path) -> None:
    async def never(_message: bytes, _deadline: float) -> bytes:
        raise AssertionError

    unary = {"/envoy.service.auth.v3.Authorization/Check": never, "/grpc.health.v1.Health/Check": never}
    server = GrpcioServer(Services(unary=unary), on_bug=lambda _method, _error: None, register=register)
    address = f"unix:{socket_folder / 'x.sock'}"
    await server.start(address)

    def ask() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            found = database.FindFileContainingSymbol("envoy.service.auth.v3.Authorization")
            return sorted(database.get_services()), [message.name for message in found.message_type]

    try:
        services, messages = await asyncio.to_thread(ask)
    finally:
        await server.close()
    assert services == ["envoy.service.auth.v3.Authorization", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
    assert {"CheckRequest", "CheckResponse", "DeniedHttpResponse", "OkHttpResponse"} <= set(messages)

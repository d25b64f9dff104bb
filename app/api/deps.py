"""What endpoints are given: the services, which live as long as the process, and who asks."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from app.errors import Forbidden, Unauthenticated
from app.resources import Resources
from app.services.accounts import AccountService
from app.services.agents import AgentService
from app.services.assistants import AssistantService
from app.services.attachments import AttachmentService
from app.services.chat import ChatService
from app.services.chat_tokens import ChatTokenService
from app.services.connectors import ConnectorService
from app.services.conversations import ConversationService
from app.services.document_work import DocumentWork
from app.services.feedback import FeedbackService
from app.services.knowledge import KnowledgeService
from app.services.outcomes import OutcomeService
from app.services.responses import ResponseService
from app.services.runs import RunService
from app.services.sessions import SessionService
from app.services.usage import UsageService
from app.services.vector_stores import VectorStoreService
from app.services.viewer import Account, Viewer

bearer = HTTPBearer(
    auto_error=False, description="An access token from `POST /api/v1/auth/login`, or an API key."
)


async def _resources(connection: HTTPConnection) -> Resources:
    return connection.app.state.resources


ResourcesDep = Annotated[Resources, Depends(_resources)]


async def _accounts(resources: ResourcesDep) -> AccountService:
    return resources.accounts


async def _assistants(resources: ResourcesDep) -> AssistantService:
    return resources.assistants


async def _agents(resources: ResourcesDep) -> AgentService:
    return resources.agents


async def _knowledge(resources: ResourcesDep) -> KnowledgeService:
    return resources.knowledge


async def _document_work(resources: ResourcesDep) -> DocumentWork:
    return resources.document_work


async def _vector_stores(resources: ResourcesDep) -> VectorStoreService:
    return resources.vector_stores


async def _connectors(resources: ResourcesDep) -> ConnectorService:
    return resources.connectors


async def _attachments(resources: ResourcesDep) -> AttachmentService:
    return resources.attachments


async def _chat(resources: ResourcesDep) -> ChatService:
    return resources.chat


async def _chat_tokens(resources: ResourcesDep) -> ChatTokenService:
    return resources.chat_tokens


async def _outcomes(resources: ResourcesDep) -> OutcomeService:
    return resources.outcomes


async def _runs(resources: ResourcesDep) -> RunService:
    return resources.runs


async def _sessions(resources: ResourcesDep) -> SessionService:
    return resources.sessions


async def _conversations(resources: ResourcesDep) -> ConversationService:
    return resources.conversations


async def _responses(resources: ResourcesDep) -> ResponseService:
    return resources.responses


async def _feedback(resources: ResourcesDep) -> FeedbackService:
    return resources.feedback


async def _usage(resources: ResourcesDep) -> UsageService:
    return resources.usage


Accounts = Annotated[AccountService, Depends(_accounts)]
Assistants = Annotated[AssistantService, Depends(_assistants)]
Agents = Annotated[AgentService, Depends(_agents)]
Knowledge = Annotated[KnowledgeService, Depends(_knowledge)]
Work = Annotated[DocumentWork, Depends(_document_work)]
VectorStores = Annotated[VectorStoreService, Depends(_vector_stores)]
Connectors = Annotated[ConnectorService, Depends(_connectors)]
Attachments = Annotated[AttachmentService, Depends(_attachments)]
Chat = Annotated[ChatService, Depends(_chat)]
ChatTokens = Annotated[ChatTokenService, Depends(_chat_tokens)]
Outcomes = Annotated[OutcomeService, Depends(_outcomes)]
Runs = Annotated[RunService, Depends(_runs)]
SessionHistory = Annotated[SessionService, Depends(_sessions)]
Conversations = Annotated[ConversationService, Depends(_conversations)]
Responses = Annotated[ResponseService, Depends(_responses)]
Ratings = Annotated[FeedbackService, Depends(_feedback)]
UsageReports = Annotated[UsageService, Depends(_usage)]


async def _viewer(
    request: Request, accounts: Accounts, _in_openapi: Annotated[object, Depends(bearer)]
) -> Viewer:
    """Anonymous without a credential, and with one that does not count: whether that is enough is the assistant's to say."""
    address = request.client.host if request.client is not None else "unknown"
    header = request.headers.get("authorization")
    if not header:
        return Viewer(address=address)
    scheme, credential = get_authorization_scheme_param(header)
    if scheme.lower() != "bearer" or not credential:
        return Viewer(
            refusal="The Authorization header must be: Bearer, a space, and a token.", address=address
        )
    try:
        return Viewer(account=await accounts.authenticate(credential), address=address)
    except Unauthenticated as error:
        return Viewer(refusal=error.message, address=address)


ViewerDep = Annotated[Viewer, Depends(_viewer)]


async def _account(viewer: ViewerDep) -> Account:
    if viewer.account is None:
        raise Unauthenticated(
            viewer.refusal or "This needs a user: send an access token or an API key as a bearer."
        )
    return viewer.account


CurrentAccount = Annotated[Account, Depends(_account)]


async def _admin(account: CurrentAccount) -> Account:
    if not account.is_admin:
        raise Forbidden("This is for administrators.")
    return account


Admin = Annotated[Account, Depends(_admin)]


async def _reader(
    document_id: UUID,
    viewer: ViewerDep,
    sessions: SessionHistory,
    session_id: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=100,
            description="For who is no administrator: the session in which an answer was given a passage of the document.",
        ),
    ] = None,
) -> None:
    await require_reader(document_id, viewer, sessions, session_id)


async def require_reader(
    document_id: UUID, viewer: Viewer, sessions: SessionService, session_id: str | None
) -> None:
    """Administrators read every document, others what an answer in this session of theirs was given a passage of."""
    if viewer.account is not None and viewer.account.is_admin:
        return
    if session_id is None:
        await _admin(await _account(viewer))
    else:
        await sessions.require_given(session_id, viewer, document_id)


ReaderOfDocument = Depends(_reader)

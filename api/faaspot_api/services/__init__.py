"""Use cases, one transaction each. HTTP knows only this package and the domain.

`Services` is what `create_app` hands to the blueprints:

``deployments: DeploymentService``
    create(who, name, change) -> execution id        update(who, name, change) -> execution id
    delete(who, name) -> execution id                get(who, name) -> Deployment; list(who) -> tuple[Deployment, ...]
    versions(who, name) -> tuple[Version, ...]       version(who, name, number) -> Version
    rollback(who, name, number) -> execution id      code(version) -> str; lock(version) -> str | None

``executions: ExecutionService``
    run(who, name, args) -> Execution                args: JSON text of a dict, checked by the caller for size and strictness
    run_bulk(who, name, [args]) -> list of ids
    run_wait(who, name, args, wait: float | None) -> (Execution, ended: bool)
                                                     None: the deployment's timeout + 30 s of queueing
    wait(who, id, seconds) -> Execution              returns at its end or after `seconds`
    get(who, id) -> Execution                        (waits up to 1 s for a result in flight)
    get_bulk(who, ids) -> list                       list(who, filter, limit, cursor) -> Page
    cancel(who, id) -> Execution                     logs(who, id) -> str
    follow(who, id) -> Iterator[str]                 the log as it grows, until the end

``spots: SpotService``
    list(who) / get(who, ip) -> Spot                 add(who) / remove(who, ip | None) / replace(who, ip) -> execution id
    update(who, min, max) -> dict                    refresh(who, ip | "all") -> execution id

``tokens: TokenService``
    authenticate(text) -> Principal (raises Unauthorized)   list(who)
    create(who, name, role, spots) -> (Token, text)         revoke(who, name)

``health: HealthService``
    ready() -> dict of part -> "ok" or a reason

Every method checks the role and the owner itself (`authorise` in one place) and raises only `faaspot_api.errors`.
"""

"""A saved pipeline onto the Hub, in one commit."""

from pathlib import Path

from huggingface_hub import HfApi

from avatarsync.errors import OutputError

UPLOAD_OPTIONS = ("repo_id", "private", "token", "revision", "create_pr", "commit_message", "commit_description")
# What `AvatarSyncPipeline.save_pretrained` writes; whatever else lies in the folder is not asked about.
MODEL_FILES = ("config.json", "processor_config.json", "*.safetensors", "*.safetensors.index.json")


def upload_model(
    folder: Path,
    repo_id: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    **commit,
) -> None:
    """Upload a folder that is saved already.

    Args:
        folder: of the model.
        repo_id: OWNER/NAME, or a name among one's own; the folder's name unless given.
        commit: `create_pr` and `commit_description` of `HfApi.upload_folder`.

    Raises:
        OutputError: nothing was uploaded; the message says why, and how to do it later.
    """
    name = repo_id or folder.resolve().name
    try:
        api = HfApi(token=token)
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(MODEL_FILES),
            revision=revision,
            commit_message=commit_message or "Upload model",
            **commit,
        )
    # Connection, rights, names, quotas, in exceptions of libraries that change with their versions: whatever it is,
    # the model is saved, and who waited for that has to know.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OutputError(
            f"{folder} is saved, and could not be uploaded ({reason}): do that later with hf upload {name} {folder}"
        ) from error


__all__ = ["UPLOAD_OPTIONS", "upload_model"]

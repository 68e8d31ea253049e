"""A Python gateway as hosts have them: SQLAlchemy models, and alembic's tables.

It prints OK after each step that still works while the module uses the same rows.
"""
import sys

from sqlalchemy import Boolean, Column, DateTime, ForeignKey, Integer, JSON, String, create_engine, func, select
from sqlalchemy.orm import Session, declarative_base, relationship

Base = declarative_base()


class User(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    name = Column(String(50))
    settings = relationship("Settings", back_populates="user", uselist=False, cascade="all, delete-orphan")


class Settings(Base):
    __tablename__ = "user_automation_settings"
    id = Column(Integer, primary_key=True)
    user_id = Column(Integer, ForeignKey("users.id", ondelete="CASCADE"), unique=True)
    is_enabled = Column(Boolean, default=False)
    session_duration = Column(Integer, default=3600)
    created_at = Column(DateTime)
    updated_at = Column(DateTime, onupdate=func.now())
    user = relationship("User", back_populates="settings")


class FeatureFlag(Base):
    __tablename__ = "feature_flags"
    feature_name = Column(String(100), primary_key=True)
    enabled = Column(Boolean)
    enabled_user_ids = Column(JSON)


def main(url, step):
    engine = create_engine(url)
    with Session(engine) as db:
        if step == "create":
            Base.metadata.create_all(engine)
            db.add_all([User(id=n, name=f"user {n}") for n in range(1, 6)])
            db.flush()
            db.add_all([Settings(user_id=1, is_enabled=True), Settings(user_id=2, session_duration=None, is_enabled=None)])
            db.add(FeatureFlag(feature_name="automation", enabled=True, enabled_user_ids=[1, 2]))
            db.commit()
            return
        one = db.execute(select(Settings).where(Settings.user_id == 1)).scalar_one()
        assert one.is_enabled is True and one.user_id == 1, one.user_id
        print("OK select")
        db.add(Settings(user_id=3, is_enabled=True, created_at=None))
        db.commit()
        print("OK insert")
        one.is_enabled = False
        db.commit()
        db.refresh(one)
        assert one.is_enabled is False and one.updated_at.tzinfo is None, one.updated_at
        print("OK update")
        assert db.get(User, 3).settings.is_enabled is True
        assert db.execute(select(User.name).join(User.settings).where(Settings.is_enabled)).scalars().all() == ["user 3"]
        print("OK relationship")
        db.delete(db.get(User, 1))
        db.commit()
        assert db.execute(select(Settings).where(Settings.user_id == 1)).scalar_one_or_none() is None
        print("OK cascade")
        flag = db.get(FeatureFlag, "automation")
        assert flag.enabled is True and flag.enabled_user_ids == [1, 2], flag.enabled_user_ids
        print("OK flag")


main(*sys.argv[1:])
